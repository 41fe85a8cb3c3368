"""A helper program that gives way: it is stopped while there is clinical work, and goes on afterwards.

It is started once and told a folder a line; it answers a line when that is done. Stopping is by signal, so that it
takes effect within a moment whatever the program does.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

LOOK_S = 0.2
DONE = b"done"
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


class Yielding:
    """The program, running from its first task to `end`."""

    def __init__(self, command: Sequence[str], busy: Callable[[], bool], longest_s: float) -> None:
        self.command, self.busy = command, busy
        self.longest_s = longest_s  # of one task, not counting the time the program was stopped
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def do(self, folder: Path, give_up: Callable[[], bool]) -> bool:
        """Have one task done; False where it took too long, nobody waits any more, or the program ended."""
        if self.process is None:
            self._start()
        done = self._done(folder, give_up)
        if not done:
            self.end()
        return done

    def end(self) -> None:
        """End the program."""
        if self.process is None:
            return
        os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()
        self.process, self.stopped = None, False

    def _start(self) -> None:
        self.process = subprocess.Popen(
            list(self.command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def _done(self, folder: Path, give_up: Callable[[], bool]) -> bool:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{folder}\n".encode())
        heard, ran_s = b"", 0.0
        while not give_up() and ran_s <= self.longest_s:
            self._let(run=not self.busy())
            ready, _, _ = select.select([self.process.stdout], [], [], LOOK_S)
            if ready:
                piece = os.read(self.process.stdout.fileno(), 65536)
                heard += piece
                if DONE in heard.splitlines():
                    return True
                if not piece:
                    return False  # it ended
            ran_s += 0.0 if self.stopped else LOOK_S
        return False

    def _let(self, *, run: bool) -> None:
        """Stop or continue the program where that changes anything."""
        assert self.process is not None
        if run == self.stopped:
            os.killpg(self.process.pid, signal.SIGCONT if run else signal.SIGSTOP)
            self.stopped = not run


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(10)

"""Runs a program that gives way: it is stopped while there is clinical work, and goes on afterwards.

Stopping is by signal, so that it takes effect within a moment whatever the program does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

LOOK_S = 0.2
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


@dataclass
class Yielding:
    """One run of a program."""

    command: Sequence[str]
    busy: Callable[[], bool]  # there is clinical work
    give_up: Callable[[], bool]  # nobody waits for the result any more
    longest_s: float  # of running, not counting the time it was stopped
    environment: dict[str, str] = field(default_factory=dict)
    stopped: bool = False

    def run(self) -> int | None:
        """Return the exit code, None if it was ended because time was up or nobody waits."""
        process = subprocess.Popen(
            list(self.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
            env={**os.environ, **self.environment},
        )
        try:
            return self._watch(process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _watch(self, process: subprocess.Popen[bytes]) -> int | None:
        ran_s = 0.0
        while process.poll() is None:
            if self.give_up() or ran_s > self.longest_s:
                return None
            self._let(process.pid, run=not self.busy())
            ran_s += 0.0 if self.stopped else LOOK_S
            time.sleep(LOOK_S)
        return process.returncode

    def _let(self, pid: int, *, run: bool) -> None:
        """Stop or continue the program where that changes anything."""
        if run == self.stopped:
            os.killpg(pid, signal.SIGCONT if run else signal.SIGSTOP)
            self.stopped = not run


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(10)

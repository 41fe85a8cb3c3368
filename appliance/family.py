"""A process that forks others and restarts what dies. It stays single-threaded, since only such a one may fork.

It must never know what the children do. A child ends with its parent, however that ends.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appliance.errors import CurieError
from appliance.log import logger
from appliance.supervisor import PR_SET_PDEATHSIG, REFUSED_TO_START

SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
STEADY_S = 20.0  # a child that ran so long starts again at once
STOP_S = 8.0  # for a child to end in order

_libc = ctypes.CDLL(None)


@dataclass
class Member:
    """One child to keep running."""

    name: str
    body: Callable[[], None]
    pid: int = 0
    started_at: float = 0.0
    failures: int = 0
    start_after: float = 0.0


class Family:
    """Forks its members in order, restarts what dies; the first one, which serves the others, ends last."""

    def __init__(
        self,
        members: Sequence[Member],
        explain: Callable[[CurieError], int],
        died: Callable[[Member], None],
        ask_to_end: Callable[[Member], None],
    ) -> None:
        self.members = list(members)
        self.explain = explain  # says in one line on stderr why a child cannot start; returns its exit code
        self.died = died
        self.ask_to_end = ask_to_end

    def run(self) -> int:
        """Run until SIGTERM, SIGINT, or a child that refuses to start; returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        gc.freeze()  # what is there now is shared by all, and stays shared
        code = 0
        try:
            while True:
                self._start_due()
                got = signal.sigtimedwait(SIGNALS, 1.0)
                if got is not None and got.si_signo != signal.SIGCHLD:
                    return 0
                code = self._reap()
                if code:
                    return code
        finally:
            self._end()

    def _start_due(self) -> None:
        for one in self.members:
            if not one.pid and time.monotonic() >= one.start_after:
                self._fork(one)

    def _fork(self, one: Member) -> None:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        one.pid = os.fork()
        one.started_at = time.monotonic()
        if one.pid == 0:
            self._be(one, parent)

    def _be(self, one: Member, parent: int) -> None:
        """Live as a child; never returns."""
        code = 1
        try:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            one.body()
            code = 0
        except CurieError as error:
            code = self.explain(error)
        except BaseException as error:  # noqa: BLE001 - the edge of the process
            logger().error("process_failed", name=one.name, cause=type(error).__name__)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> int:
        """Note which children ended. Returns the exit code of one that refuses to start at all, else 0."""
        for one in self.members:
            if not one.pid:
                continue
            pid, status = os.waitpid(one.pid, os.WNOHANG)
            if not pid:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code in REFUSED_TO_START and one.failures == 0 and time.monotonic() - one.started_at < STEADY_S:
                one.pid = 0
                return code
            self._lost(one, code)
        return 0

    def _lost(self, one: Member, code: int) -> None:
        steady = time.monotonic() - one.started_at > STEADY_S
        one.failures = 1 if steady else one.failures + 1
        wait_s = 0.0 if one.failures <= 1 else min(0.1 * 2.0**one.failures, 10.0)
        logger().error("process_died", name=one.name, exit_code=code, restart_in_s=wait_s)
        one.start_after = time.monotonic() + wait_s
        self.died(one)
        one.pid = 0

    def _end(self) -> None:
        """Ask the members to end, the first one after all others; kill what has not ended in time."""
        for group in (self.members[1:], self.members[:1]):
            running = [one for one in group if one.pid]
            for one in running:
                self.ask_to_end(one)
            for one in running:
                _wait(one)


def _wait(one: Member) -> None:
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline:
        pid, _ = os.waitpid(one.pid, os.WNOHANG)
        if pid:
            return
        time.sleep(0.02)
    logger().warning("process_killed", name=one.name)
    os.kill(one.pid, signal.SIGKILL)
    os.waitpid(one.pid, 0)

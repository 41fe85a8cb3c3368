"""Starts processes, restarts what dies, stops all in order. It must never know what the processes do.

Every child is in a session of its own and ends when the supervisor is killed, so that no orphan keeps a port.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from appliance.errors import CurieError, Missing
from appliance.log import logger

STOP_S = 15.0  # from SIGTERM to SIGKILL, for all children together
STEADY_S = 20.0  # a child that ran so long starts again at once
PR_SET_PDEATHSIG = 1
REFUSED_TO_START = (2, 3)  # exit codes of a process that says what is wrong and what to do

_libc = ctypes.CDLL(None)


class ChildRefused(CurieError):
    """A process said why it cannot start, on stderr; `code` is its exit code."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name} did not start")
        self.code = code


@dataclass
class Child:
    """One process to keep running, and what is known of it."""

    name: str
    command: Sequence[str]
    alive: Callable[[], bool] | None = None  # an outside check, for a program that does not report itself
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    start_after: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, errors_to: TextIO | int | None) -> None:
        """Start the process."""
        self.process = subprocess.Popen(
            list(self.command),
            stdin=subprocess.DEVNULL,
            stdout=errors_to if errors_to is not None else 2,
            stderr=errors_to,
            start_new_session=True,
            preexec_fn=_die_with_parent,
            env={**os.environ, **self.environment},
        )
        self.started_at = time.monotonic()

    @property
    def exit_code(self) -> int | None:
        """Exit code, or None while it runs or was never started."""
        return self.process.poll() if self.process else None


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def claim_folder(data_dir: Path) -> Any:
    """Return an open lock that says: this data_dir has its supervisor. Raises Missing when another runs."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        lock = open(data_dir / "up.lock", "w")  # noqa: SIM115 - held until the process ends
    except OSError as error:
        raise Missing(f"data_dir {data_dir} is not writable: {error.strerror}; check owner and mode") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Missing(f"curie is already up on {data_dir}; stop that one first") from None
    return lock


class Supervisor:
    """Keeps a set of children running."""

    def __init__(self, children: Sequence[Child], errors_to: TextIO | int | None = None) -> None:
        self.children = list(children)
        self.errors_to = errors_to
        self.ready = False

    def start(self) -> None:
        """Start all children, in order."""
        for child in self.children:
            child.start(self.errors_to)

    def step(self) -> None:
        """Restart what died. Raises ChildRefused when one refuses to start before all were ready."""
        for child in self.children:
            code = child.exit_code
            if child.process is None and time.monotonic() >= child.start_after:
                child.start(self.errors_to)
            elif code is not None:
                self._died(child, code)

    def _died(self, child: Child, code: int) -> None:
        if not self.ready and code in REFUSED_TO_START:
            raise ChildRefused(child.name, code)
        steady = time.monotonic() - child.started_at > STEADY_S
        child.failures = 0 if steady else child.failures + 1
        wait_s = 0.0 if child.failures <= 1 else min(2.0 ** (child.failures - 1), 30.0)
        logger().error("process_died", name=child.name, exit_code=code, restart_in_s=wait_s)
        child.process = None
        child.start_after = time.monotonic() + wait_s

    def stop(self) -> None:
        """Ask all children to end, the broker last; kill what has not ended after 15 s."""
        deadline = time.monotonic() + STOP_S
        last = [child for child in self.children if child.alive is not None]
        for group in ([child for child in self.children if child not in last], last):
            for child in group:
                if child.process and child.exit_code is None:
                    child.process.terminate()
            for child in group:
                _wait(child, deadline)
        if any(child.process for child in self.children):
            logger().info("all_ended")


def _wait(child: Child, deadline: float) -> None:
    if child.process is None:
        return
    try:
        child.process.wait(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        logger().warning("process_killed", name=child.name)
        child.process.kill()
        child.process.wait()

"""Several hosts on this one: a network namespace each, with an address and a host name, on one bridge.

Nothing of it is named outside: a namespace lives as long as the process that holds it, which ends with the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.acceptance.house import wait_for

NETWORK = "10.19.14"
OURS = f"{NETWORK}.254"
BRIDGE = "curie-hosts"


class Host:
    """A machine with one cable. Its disks are those of this machine, so a folder may be shared."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.address, self.cable = name, f"{NETWORK}.{number}", f"cable{number}"
        self.processes: list[subprocess.Popen[bytes]] = []
        hold = f"hostname {name} && exec cat"  # ends when our end of its input is closed, however that comes
        self.holder = subprocess.Popen(["unshare", "--net", "--uts", "sh", "-c", hold], stdin=subprocess.PIPE)
        wait_for(f"the namespace of {name}", self._stands, 10, 0.02)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", str(self.holder.pid))
        ip("link", "set", self.cable, "master", BRIDGE, "up")
        for words in (f"addr add {self.address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            subprocess.run(self.inside("ip", *words.split()), check=True)

    def _stands(self) -> bool:
        return Path(f"/proc/{self.holder.pid}/comm").read_text() == "cat\n"

    def inside(self, *command: str) -> list[str]:
        """Return the command as it is run on this host."""
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--uts", "--", *command]

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program here."""
        with open(log, "ab") as file:
            process = subprocess.Popen(self.inside(*command), stdout=file, stderr=file, env=ENVIRONMENT)
        self.processes.append(process)
        return process

    def cut_off(self) -> None:
        """Pull the cable: nothing comes through, and nobody is told."""
        ip("link", "set", self.cable, "down")

    def plug_in(self) -> None:
        """Put the cable back."""
        ip("link", "set", self.cable, "up")

    def kill(self) -> None:
        """kill -9 of whatever runs here."""
        for process in self.processes:
            for one in _with_children(process):
                one.kill()
            process.wait()
        self.processes.clear()

    def stop(self) -> list[int]:
        """SIGTERM to what runs here; returns the exit codes."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=30) for process in self.processes]
        self.processes.clear()
        return codes

    def end(self) -> None:
        """Leave nothing behind."""
        self.kill()
        assert self.holder.stdin is not None
        self.holder.stdin.close()
        self.holder.wait(timeout=10)


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def ip(*words: str) -> None:
    """Run `ip` in the namespace of the tests."""
    subprocess.run(["ip", *words], check=True)


def _with_children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    if process.poll() is not None:
        return []
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Yield hosts that reach each other, and that this process reaches; at the end none of them is left."""
    ip("link", "add", BRIDGE, "type", "bridge")
    made: list[Host] = []
    try:
        ip("addr", "add", f"{OURS}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(names, start=1):
            made.append(Host(name, number))
        yield made
    finally:
        for one in made:
            one.end()
        ip("link", "delete", BRIDGE)

"""The receiver alone, as real processes: `curie run receiver` in a folder of its own, and honest peers to it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from sqlalchemy import select

from appliance.catalogue import open_catalogue, processes
from appliance.catalogue.connection import now
from appliance.catalogue.tables import instance
from appliance.settings import load
from bench.pdus import Broken
from bench.replayer import Place, echo
from tests.acceptance.house import CURIE, free_port, wait_for
from tests.raw_peer import C_ECHO, COMMAND, IMPLICIT, LAST, VERIFICATION, RawPeer, command, data, fragment

SETTINGS = """
[appliance]
data_dir = "data"
[spool]
reserve_gb = 0.2
[receiver]
host = "127.0.0.1"
port = {port}
{receiver}
[[sources]]
ae_title = "SCANNER"
hosts = ["127.0.0.1/32"]
"""


class Door:
    """`curie run receiver`."""

    def __init__(self, folder: Path, receiver: str = "") -> None:
        self.port = free_port()
        self.file = folder / "curie.toml"
        self.log = folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(SETTINGS.format(port=self.port, receiver=receiver))
        self.spool = folder / "data" / "spool"
        self.settings = load(self.file)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, before: Sequence[str] = ()) -> None:
        """Start and wait until C-ECHO is answered."""
        with open(self.log, "ab") as log:
            command_line = [*before, *CURIE, "run", "receiver", "--config", str(self.file)]
            self.process = subprocess.Popen(command_line, stdout=log, stderr=log)
        wait_for("the receiver", self.answers, 60)

    def answers(self) -> bool:
        """Return whether an honest C-ECHO is answered."""
        try:
            echo(Place(self.port, "CURIE", "SCANNER"))
        except (OSError, Broken):
            return False
        return True

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def kill_parent(self) -> None:
        """kill -9 of the process that `curie run receiver` is."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pids(self) -> dict[str, int]:
        """Return the receiver's processes by name, as `curie status` knows them, if they live."""
        catalogue = open_catalogue(self.settings.catalogue_url, self.settings.data_dir)
        try:
            with catalogue.read() as connection:
                listed = processes.listing(connection, now())
        finally:
            catalogue.close()
        return {one["name"]: one["pid"] for one in listed if psutil.pid_exists(one["pid"])}

    def acceptors(self) -> list[psutil.Process]:
        """Return the accepting processes."""
        found = wait_for("the receiver's processes", lambda: len(self.pids()) >= 3 and self.pids(), 30)
        return [psutil.Process(pid) for name, pid in found.items() if name.split("-")[-1].isdigit()]

    def indexed(self) -> dict[str, str]:
        """Return the state of each row by its path."""
        catalogue = open_catalogue(self.settings.catalogue_url, self.settings.data_dir)
        try:
            with catalogue.read() as connection:
                return {row.path: row.state for row in connection.execute(select(instance.c.path, instance.c.state))}
        finally:
            catalogue.close()

    def parts(self) -> list[str]:
        """Return the files that are being received, those without a name too."""
        found = os.listdir(self.spool / "part")
        for process in self.acceptors():
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(OSError):
                    target = os.readlink(descriptor)
                    found += [target] if target.startswith(f"{self.spool}/part/") else []
        return found


class Gauge:
    """Memory, threads and descriptors of processes, and the most memory seen."""

    def __init__(self, found: Sequence[psutil.Process]) -> None:
        self.processes = list(found)
        self.rss_before = self.rss()
        self.threads_before, self.descriptors_before = self.threads(), self.descriptors()
        for one in self.processes:
            Path(f"/proc/{one.pid}/clear_refs").write_text("5")  # VmHWM counts from now

    def rss(self) -> float:
        """Resident memory in MB."""
        return sum(one.memory_info().rss for one in self.processes) / 1e6

    def growth(self) -> float:
        """Return by how many MB the greatest resident memory since the start exceeds that at the start."""
        highest = 0.0
        for one in self.processes:
            status = Path(f"/proc/{one.pid}/status").read_text()
            highest += next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3
        return highest * 1.024 - self.rss_before

    def threads(self) -> int:
        """Return how many threads there are."""
        return sum(one.num_threads() for one in self.processes)

    def descriptors(self) -> int:
        """Return how many descriptors are open."""
        return sum(one.num_fds() for one in self.processes)


def timed_echo(port: int) -> float:
    """Return the seconds of an honest association with one C-ECHO, refusals not tried again."""
    began = time.monotonic()
    with RawPeer(("127.0.0.1", port), timeout=30) as peer:
        peer.associate([(1, VERIFICATION, [IMPLICIT])])
        peer.send(data(fragment(1, COMMAND | LAST, command(C_ECHO, 1, VERIFICATION, dataset=False))))
        assert peer.status(1) == 0
        peer.release()
    return time.monotonic() - began


def kill_quietly(pid: int) -> None:
    """kill -9, if it still lives."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return

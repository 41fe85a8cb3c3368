"""The receivers that are compared: how each is started in a folder of its own, and where it keeps what it received.

Each runs on a loopback port of its own and is ended by its process id. Peers get what a competent user would give
them: TCP_NODELAY=1 and 128 KiB PDUs for DCMTK. It must never reuse a folder or a process from an earlier run.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.pdus import MAXIMUM_PDU, Broken
from bench.replayer import Place, echo

CURIE_TOML = """
[appliance]
name = "bench"
uid = "2.25.1914"
data_dir = "data"
[spool]
reserve_gb = 0.2
[receiver]
host = "127.0.0.1"
port = {port}
unknown_sources = "accept"
processes = {processes}
max_associations_per_source = 64
max_associations_per_address = 64
[[sources]]
ae_title = "BENCH"
"""
PROCESSES = min(4, os.cpu_count() or 1)  # as docs/operating.md advises for many associations
START_S = 60.0
END_S = 30.0
SETTLE_S = 0.5
STEADY_MB = 0.2


@dataclass(frozen=True)
class Subject:
    """One receiver: its AE title, its command for (folder, port), and where its files lie (a glob)."""

    name: str
    called: str
    command: Callable[[Path, int], list[str]]
    stored: str | None = "store/*"  # None: it keeps nothing
    nodelay: bool = True
    program: str = ""  # that has to be installed
    everywhere: bool = False  # listens on all addresses, whatever it is told


def _curie(folder: Path, port: int) -> list[str]:
    file = folder / "curie.toml"
    file.write_text(CURIE_TOML.format(port=port, processes=PROCESSES))
    return [sys.executable, "-m", "appliance.cli.main", "run", "receiver", "--config", str(file)]


def _storescp(*options: str) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        where = ["-aet", "STORESCP", "-pdu", str(MAXIMUM_PDU), "-od", str(folder / "store")]
        return ["storescp", "+B", *options, *where, str(port)]

    return command


def _orthanc(folder: Path, port: int) -> list[str]:
    configuration = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "HttpPort": free_port(),
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowStore": True,
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [],
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    return ["Orthanc", str(file)]


def _pynetdicom(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "bench.pynetdicom_receiver", str(port), str(folder / "store")]


def _null_sink(folder: Path, port: int) -> list[str]:  # noqa: ARG001
    return [sys.executable, "-m", "bench.null_sink", str(port)]


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("curie", "CURIE", _curie, stored="data/spool/[0-9a-f][0-9a-f]/*.dcm"),
        Subject("storescp", "STORESCP", _storescp(), program="storescp"),
        Subject("storescp --fork", "STORESCP", _storescp("--fork"), program="storescp"),
        Subject("storescp untuned", "STORESCP", _storescp(), nodelay=False, program="storescp"),
        Subject("orthanc", "ORTHANC", _orthanc, stored="store/*/*/*", program="Orthanc", everywhere=True),
        Subject("pynetdicom", "PYNETDICOM", _pynetdicom),
        Subject("null sink", "NULL", _null_sink, stored=None),
    )
}


def free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def dcmtk_environment(nodelay: bool) -> dict[str, str]:
    """Return the environment in which DCMTK switches Nagle's algorithm off, or leaves it on as by default."""
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    return environment | ({"TCP_NODELAY": "1"} if nodelay else {})


def is_alone() -> bool:
    """Return whether this network namespace has nothing but loopback."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def absent(subject: Subject) -> str:
    """Return why a subject cannot run here, or nothing."""
    if subject.program and not shutil.which(subject.program):
        return f"{subject.program} is not installed"
    if subject.everywhere and not is_alone():
        return f"{subject.program} listens on all addresses: it runs only in a network of its own (make bench-ingest)"
    return ""


class Running:
    """A subject that was started, as a context manager: ready when entered, ended and its folder deleted after."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.folder = subject, folder
        self.place = Place(free_port(), subject.called)
        self.resident_mb: dict[int, float] = {}  # before the first association
        (folder / "store").mkdir(parents=True)
        self._log = (folder / "log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that was started; it may have children."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Running:
        command = self.subject.command(self.folder, self.place.port)
        environment = dcmtk_environment(self.subject.nodelay)
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=environment)
        try:
            self._wait_for("listening", lambda: processes.is_listening(self.place.port))
            self.resident_mb = self._resident_at_rest()
            processes.forget_peaks(self.pid)
            self._wait_for("an answer to C-ECHO", self._answers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _resident_at_rest(self) -> dict[int, float]:
        """Return the resident size of each process once none grows any more: some load libraries after they listen."""
        deadline, before = time.monotonic() + START_S, processes.resident_mb(self.pid)
        while time.monotonic() < deadline:
            time.sleep(SETTLE_S)
            now = processes.resident_mb(self.pid)
            if now.keys() == before.keys() and sum(now.values()) - sum(before.values()) < STEADY_MB:
                return now
            before = now
        return before

    def _wait_for(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not is_so():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"{self.subject.name}: no {what}: {self.log()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            echo(self.place)
        except (OSError, Broken):
            return False
        return True

    def log(self) -> str:
        """Return the end of what it wrote."""
        return (self.folder / "log").read_text(errors="replace")[-1500:]

    def stored(self) -> list[Path]:
        """Return the files that it keeps."""
        return sorted(p for p in self.folder.glob(self.subject.stored or "") if p.is_file())

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        descendants = processes.tree(self.pid)[1:]
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in set(descendants) & _still_ours(self.folder):
            os.kill(pid, 9)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _still_ours(folder: Path) -> set[int]:
    """Return the processes that were started for this folder: its name stands in their command line."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in file.read_bytes():
                found.add(int(file.parent.name))
        except OSError:
            continue
    return found

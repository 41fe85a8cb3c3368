"""The health check of containers, run as they run it, against real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.tools import CURIE, DEPLOY, ROOT, run

SETTINGS = """
[appliance]
name = "healthy"
data_dir = "data"
[spool]
reserve_gb = 0.01
[broker]
url = "redis://127.0.0.1:1/0"
{more}
[receiver]
host = "127.0.0.1"
port = {port}
"""
ONES = ("receiver", "delivery")  # two that start quickly


def health(settings: Path, *process: str) -> subprocess.CompletedProcess[str]:
    inside = {**os.environ, "CURIE_CONFIG": str(settings), "PYTHONPATH": str(ROOT)}  # as installed in the image
    return run(sys.executable, DEPLOY / "healthy.py", *process, env=inside)


def wait_for_health(settings: Path, process: str, code: int) -> str:
    deadline = time.monotonic() + 40
    while (ran := health(settings, process)).returncode != code:
        assert time.monotonic() < deadline, ran.stdout
        time.sleep(0.5)
    return ran.stdout


@pytest.fixture
def settings(tmp_path: Path, free_port: int) -> Path:
    file = tmp_path / "curie.toml"
    file.write_text(SETTINGS.format(port=free_port, more=""))
    return file


@pytest.fixture
def started(settings: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """`curie run` of a few processes, in one folder, as in a larger house."""
    with open(settings.parent / "log", "w") as log:
        found = {
            name: subprocess.Popen([*CURIE, "run", name, "--config", str(settings)], stdout=log, stderr=log)
            for name in ONES
        }
        yield found
        for one in found.values():
            one.terminate()
        for one in found.values():
            one.wait(timeout=20)


def test_a_process_that_runs_is_healthy_and_one_that_ended_is_not(
    settings: Path, started: dict[str, subprocess.Popen[bytes]]
) -> None:
    for name in ONES:
        assert wait_for_health(settings, name, 0) == "healthy\n"
    assert health(settings, "worker").stdout == "worker does not beat\n"
    assert health(settings).stdout == "not every process beats\n"
    started["delivery"].send_signal(signal.SIGKILL)
    started["delivery"].wait(timeout=10)
    assert wait_for_health(settings, "delivery", 1) == "delivery does not beat\n"
    assert health(settings, "receiver").returncode == 0


def test_a_catalogue_that_is_away_says_nothing_of_the_process(tmp_path: Path, free_port: int) -> None:
    file = tmp_path / "curie.toml"
    away = f'[catalogue]\nurl = "postgresql+psycopg://curie@127.0.0.1:{free_port}/curie"'
    file.write_text(SETTINGS.format(port=free_port, more=away))
    assert health(file, "receiver").returncode == 0
    assert not (tmp_path / "data").exists(), "it makes nothing"


def test_before_anything_ran_nothing_is_healthy(settings: Path) -> None:
    (settings.parent / "data").mkdir()
    assert health(settings, "receiver").stdout == "nothing ran here yet\n"
    assert not list((settings.parent / "data").iterdir()), "it makes nothing"


def test_settings_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    ran = health(tmp_path / "absent.toml", "receiver")
    assert ran.returncode == 1
    assert "absent.toml" in ran.stdout
    assert len(ran.stdout.splitlines()) == 1

"""What is wrong at the start is said in one line, with the next step; Ctrl-C leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.acceptance.house import CURIE, SETTINGS, Appliance, free_port, wait_for

pytestmark = pytest.mark.acceptance


def start(folder: Path, text: str) -> tuple[int, list[str]]:
    """Run `curie up`; return its exit code and the lines for a person."""
    file = folder / "curie.toml"
    file.write_text(text)
    ran = subprocess.run([*CURIE, "up", "--config", str(file)], capture_output=True, text=True, timeout=90, check=False)
    assert "Traceback" not in ran.stderr
    return ran.returncode, [line for line in ran.stderr.splitlines() if line.startswith("curie:")]


def settings(**changes: object) -> str:
    return SETTINGS.format(**{"port": free_port(), "pacs_port": free_port(), "receiver": "", **changes})


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, lines = start(tmp_path, settings(port=port))
    assert code == 3
    assert len(lines) == 1
    assert f"port {port}" in lines[0]
    assert "receiver.port" in lines[0]


def test_a_mistyped_setting(tmp_path: Path) -> None:
    code, lines = start(tmp_path, settings() + "\n[completness]\nquiet_s = 1\n")
    assert code == 2
    assert len(lines) == 1
    assert "'completeness'" in lines[0]


def test_a_data_dir_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, lines = start(tmp_path, settings().replace('data_dir = "data"', 'data_dir = "file/data"'))
    assert code == 3
    assert len(lines) == 1
    assert "not writable" in lines[0]


def test_a_catalogue_that_is_away(tmp_path: Path) -> None:
    away = f'\n[catalogue]\nurl = "postgresql+psycopg://curie@127.0.0.1:{free_port()}/curie"\n'
    code, lines = start(tmp_path, settings() + away)
    assert code == 3
    assert len(lines) == 1
    assert "catalogue.url" in lines[0]


def test_a_broker_that_is_away_costs_seconds_not_jobs(tmp_path: Path) -> None:
    appliance = Appliance(tmp_path / "curie", pacs_port=1)
    text = appliance.file.read_text() + f'\n[broker]\nurl = "redis://127.0.0.1:{free_port()}/0"\n'
    appliance.file.write_text(text)
    appliance.start()
    try:
        assert appliance.json("status")["ready"] is True
        from tests.acceptance.house import dcmsend
        from tests.acceptance.test_killed import small_head

        study = small_head(tmp_path / "head", 300)
        dcmsend([tmp_path / "head"], appliance.port)
        wait_for("results", lambda: appliance.json("status")["outbox"]["waiting"] == 2, 90)
        assert (appliance.outcome(study) or {})["state"] == "delivering"
    finally:
        appliance.stop()


def test_a_demo_of_a_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no image")
    ran = subprocess.run(
        [*CURIE, "demo", str(tmp_path), "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=90
    )
    assert ran.returncode == 3
    assert [line for line in ran.stderr.splitlines() if "no DICOM image among 1 files" in line]


def test_the_demo_shows_one_seg_and_one_sr(tmp_path: Path) -> None:
    command = [*CURIE, "demo", "--json", "--out", str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert sorted(result["role"] for result in told["results"]) == ["SEG", "SR"]
    assert all(Path(result["path"]).is_file() for result in told["results"])
    assert Path(told["picture"]).read_bytes().startswith(b"\x89PNG")
    assert told["findings"]
    assert told["agreement"]["white_matter"] > 0.75
    assert told["agreement"]["grey_matter"] > 0.65
    assert not (tmp_path / "out" / "appliance").exists(), "without --keep the data_dir goes"


def test_ctrl_c_ends_every_process_of_the_demo(tmp_path: Path) -> None:
    command = [*CURIE, "demo", "--out", str(tmp_path / "out")]
    demo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for("five processes and a PACS", lambda: len(psutil.Process(demo.pid).children()) >= 6, 180)
    time.sleep(3)
    started = psutil.Process(demo.pid).children(recursive=True)
    os.kill(demo.pid, signal.SIGINT)
    assert demo.wait(timeout=60) == 130
    wait_for("the end of all", lambda: not [one for one in started if alive(one)], 5)  # an engine looks twice a second


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

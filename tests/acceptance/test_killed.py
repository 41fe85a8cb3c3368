"""kill -9 of each process in mid-job, and an emptied broker: exactly one result set each time, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.settings import load
from tests.acceptance.house import Appliance, Orthanc, dcmsend, wait_for
from tests.phantoms import Phantom, series, write_series
from workers.broker import answers
from workers.celery_app import embedded_socket

pytestmark = pytest.mark.acceptance
STARTED = ("running", "delivering", "completed", "failed", "unsuitable", "not_routed")
Pair = tuple[Appliance, Orthanc]


def small_head(folder: Path, number: int) -> str:
    """Write a small head phantom as a study of its own; return its UID."""
    images = series(Phantom(slices=40, rows=72, columns=64, spacing=(4.0, 3.0, 3.0)))
    study = f"1.2.826.0.1.3680043.8.498.1914.77.{number}"
    for ds in images:
        for keyword in ("SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            setattr(ds, keyword, f"{getattr(ds, keyword)}.{number}")
        ds.StudyInstanceUID = study
    write_series(folder, images)
    return study


def kill(appliance: Appliance, name: str) -> None:
    pid = appliance.pid(name)
    os.kill(pid, signal.SIGKILL)
    wait_for(f"a new {name}", lambda: _healthy_other(appliance, name, pid), 30)


def _healthy_other(appliance: Appliance, name: str, pid: int) -> bool:
    found = [p for p in appliance.json("status")["processes"] if p["name"].startswith(name)]
    return bool(found) and found[0]["healthy"] and found[0]["pid"] != pid


def flush(appliance: Appliance, name: str) -> None:
    import redis

    with redis.Redis(unix_socket_path=str(embedded_socket(load(appliance.file).data_dir))) as client:
        client.flushall()
    assert answers(load(appliance.file))


CASES: list[tuple[str, Callable[[Appliance, str], None]]] = [
    ("dispatch", kill),
    ("broker", kill),
    ("broker", flush),
    ("delivery", kill),
    ("receiver", kill),
    ("worker", kill),
]


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{name}-{fault.__name__}" for name, fault in CASES])
def test_one_result_set_whatever_dies(pair: Pair, tmp_path: Path, number: int) -> None:
    appliance, orthanc = pair
    name, fault = CASES[number]
    study = small_head(tmp_path, number)
    dcmsend([tmp_path], appliance.port)
    wait_for("a job", lambda: _state(appliance, study) in STARTED, 60)
    fault(appliance, name)
    outcome = appliance.final(study, seconds=120)
    assert outcome["outcome"] == "completed", outcome["reason"]
    assert {k: len(v) for k, v in orthanc.results(study).items()} == {"SEG": 1, "SR": 1}
    assert len([j for j in appliance.json("jobs", "list") if j["study_instance_uid"] == study]) == 1


def _state(appliance: Appliance, study: str) -> str:
    outcome = appliance.outcome(study)
    return str(outcome.get("state", outcome["outcome"])) if outcome else ""


def test_a_pacs_that_is_away_gets_the_results_when_it_is_back(pair: Pair, tmp_path: Path) -> None:
    appliance, orthanc = pair
    orthanc.stop()
    try:
        study = small_head(tmp_path, 90)
        dcmsend([tmp_path], appliance.port)
        wait_for("results that wait", lambda: appliance.json("status")["outbox"]["waiting"] == 2, 90)
        outcome = appliance.outcome(study)
        assert outcome is not None
        assert outcome["outcome"] == "pending"
        assert "does not answer" in outcome["results"][0]["destinations"][0]["answer"]
    finally:
        orthanc.start()
    assert appliance.final(study, seconds=60)["outcome"] == "completed"


def test_sigterm_ends_every_process_and_frees_the_port(tmp_path: Path) -> None:
    appliance = Appliance(tmp_path / "curie", pacs_port=1)
    appliance.start()
    assert appliance.process is not None
    pids = [p["pid"] for p in appliance.json("status")["processes"]]
    assert len(pids) == 7
    started = time.monotonic()
    assert appliance.stop() == 0
    assert time.monotonic() - started < 20
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    appliance.start()
    appliance.stop()


def test_a_stop_in_mid_job_puts_the_job_back_and_blames_nobody(tmp_path: Path, unpacked: Callable[[str], Path]) -> None:
    appliance = Appliance(tmp_path / "curie", pacs_port=1)
    appliance.start()
    folder = unpacked("mr_brain_t1_siemens_skyra_sag")
    dcmsend([folder], appliance.port)
    wait_for("a running job", lambda: appliance.json("status")["jobs"]["running"] == 1, 60)
    started = time.monotonic()
    assert appliance.stop() == 0
    assert time.monotonic() - started < 12, "the worker ended by itself"
    (job,) = appliance.json("jobs", "list")
    shown = appliance.json("jobs", "show", job["id"])
    assert (shown["state"], shown["attempts"], shown["errors"]) == ("queued", 0, 0), shown["events"]
    assert shown["events"][-1]["cause"] == "the worker was stopped"


def test_kill_of_the_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    appliance = Appliance(tmp_path / "curie", pacs_port=1)
    appliance.start()
    assert appliance.process is not None
    pids = [p["pid"] for p in appliance.json("status")["processes"]]
    appliance.process.kill()
    appliance.process.wait()
    wait_for("the end of all", lambda: not [p for p in pids if Path(f"/proc/{p}").exists()], 20)


def test_a_second_up_on_the_same_data_is_refused_in_one_line(pair: Pair) -> None:
    appliance, _ = pair
    second = subprocess.run(
        [*_up(), "--config", str(appliance.file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 3
    lines = [line for line in second.stderr.splitlines() if line.startswith("curie:")]
    assert len(lines) == 1
    assert "already up" in lines[0]


def _up() -> list[str]:
    from tests.acceptance.house import CURIE

    return [*CURIE, "up"]

"""A whole appliance learns while studies come in: a clinical job does not wait for training."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import psutil
import pytest

from appliance.cli.demo import send, small_pacs
from appliance.settings import load
from bench.consortium import Consortium, Party, radiology_settings, wait_for
from tests.acceptance.tiny import tiny_consortium
from tests.phantoms import Phantom, part10, series

pytestmark = [pytest.mark.acceptance, pytest.mark.long]
HEAD = Phantom(slices=36, rows=72, columns=64, spacing=(4.0, 2.8, 2.8))
STUDIES = 3  # with training, and without
LATER_S = 1.0  # at most


def sent(site: Party, number: int, folder: Path) -> str:
    """Send a head of its own as a scanner does; returns the study's UID."""
    folder.mkdir()
    study = f"2.25.1914.{number}"
    for n, ds in enumerate(series(HEAD)):
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
        ds.SOPInstanceUID = f"{study}.1.{n + 1}"
        (folder / f"{n}.dcm").write_bytes(part10(ds, "explicit"))
    assert send(sorted(folder.glob("*.dcm")), load(site.file)) == study
    return study


def waited(site: Party, study: str) -> float:
    """Return how many seconds the study's job waited in the queue."""

    def found() -> list[float]:
        ran = site.run("explain", study, "--json")
        told = json.loads(ran.stdout)["outcomes"] if ran.returncode == 0 else []
        done = [one for one in told if one["route"] == "brain" and one["outcome"] == "completed"]
        return [float(one["timings"]["wait_s"]) for one in done]

    waits: list[float] = wait_for(f"the results of {study}", found, 120)
    return waits[0]


def trainer(site: Party) -> psutil.Process | None:
    """Return the trainer, once it is at work on a round."""
    return site.trainer() if (site.data / "sidecar" / "work" / "request.bin").exists() else None


@pytest.fixture
def learning(tmp_path: Path) -> Consortium:
    """A coordinator and one hospital, whose rounds take longer than any test."""
    central = {"min_sites": 1, "rounds": 1, "steps": 100_000, "round_timeout_s": 3600}
    made = tiny_consortium(tmp_path / "consortium", 1, central, {"min_new_cases": 0})
    site = made.sites[0]
    site.words = ("up",)
    site.file.write_text(site.file.read_text() + radiology_settings("brain", "brain-structures", "MR"))
    return made


def test_a_clinical_job_starts_within_a_second_of_when_it_would_without_training(
    learning: Consortium, tmp_path: Path
) -> None:
    site = learning.sites[0]
    with small_pacs(tmp_path / "pacs", load(site.file)):
        learning.start()
        try:
            wait_for("the appliance", lambda: site.run("status").returncode == 0, 60)
            waited(site, sent(site, 99, tmp_path / "first"))  # the engine is loaded with the first
            without = [waited(site, sent(site, n, tmp_path / f"without-{n}")) for n in range(STUDIES)]
            learning.coordinate()
            process = wait_for("training", lambda: trainer(site), 120)
            during = []
            for n in range(STUDIES, 2 * STUDIES):
                wait_for("training", lambda: process.status() != psutil.STATUS_STOPPED, 20, every_s=0.05)
                study = sent(site, n, tmp_path / f"during-{n}")
                wait_for("the trainer to yield", lambda: process.status() == psutil.STATUS_STOPPED, 20, every_s=0.02)
                during.append(waited(site, study))
            wait_for("training", lambda: process.status() != psutil.STATUS_STOPPED, 20, every_s=0.05)
        finally:
            learning.stop()
            learning.door.close()
    print(f"waited in the queue: without training {without}, during training {during} s")
    assert statistics.median(during) <= statistics.median(without) + LATER_S

"""Dispatch completes studies by evidence: real arrivals, a real indexer, a clock that the test turns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import select

from appliance.catalogue import Catalogue, evidence, overview, processes
from appliance.catalogue.connection import now
from appliance.catalogue.tables import association, study
from appliance.settings import parse
from dicom_nodes import indexer as indexer_module
from dicom_nodes.indexer import AssociationEnded, AssociationOpened, FileKept, Indexer
from dicom_nodes.spool import Spool
from tests.phantoms import Phantom, missing_slice, part10, series
from workers import dispatch as module
from workers.celery_app import make_app
from workers.dispatch import Dispatch

NO_BROKER = "redis+socket:///nonexistent/broker.sock"
SETTINGS = "[spool]\nreserve_gb = 0\n"


class House:
    """A spool, its indexer and dispatch, with all clocks at `seconds` after the start."""

    def __init__(self, catalogue: Catalogue, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = parse(SETTINGS, folder / "curie.toml")
        self.catalogue = catalogue
        self.spool = Spool(settings.spool_dir, 0)
        self.spool.prepare()
        self.dispatch = Dispatch(settings, catalogue, make_app(NO_BROKER))
        self.start = now()
        self.seconds = 0.0
        for place in (module, indexer_module):
            monkeypatch.setattr(place, "now", self.now)

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def take(self, seconds: float, *arrivals: Any) -> None:
        """Let the indexer write arrivals at a moment; datasets are instances of association `a` or the one before."""
        self.seconds = seconds
        indexer = Indexer(self.catalogue, self.spool)
        association = "a"
        written = []
        for one in arrivals:
            association = getattr(one, "id", association)
            written.append(self._kept(one, association) if isinstance(one, Dataset) else one)
        indexer._write(written)

    def _kept(self, ds: Dataset, association: str) -> FileKept:
        kept = self.spool.keep(str(ds.SOPInstanceUID), part10(ds))
        at = self.now().timestamp()
        os.utime(self.spool.folder / kept.path, (at, at))
        return FileKept(kept.path, association)

    def at(self, seconds: float) -> str:
        """Let dispatch look at a moment; returns why the latest study is complete, or nothing."""
        self.seconds = seconds
        with self.catalogue.write() as connection:  # receivers are alive
            connection.execute(association.update().values(lease_until=self.now() + timedelta(1)))
        self.dispatch._complete_studies()
        with self.catalogue.read() as connection:
            row = connection.execute(select(study).order_by(study.c.first_received_at.desc()).limit(1)).one()
        return str(row.complete_reason) if row.state == "complete" else ""


@pytest.fixture
def house(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(catalogue, tmp_path, monkeypatch)


def opened(id: str = "a") -> AssociationOpened:
    return AssociationOpened(id, "SCANNER", "10.0.0.1")


def ended(id: str = "a", aborted: bool = False) -> AssociationEnded:
    return AssociationEnded(id, aborted)


def counted(images: Sequence[Dataset]) -> list[Dataset]:
    for ds in images:
        ds.NumberOfStudyRelatedInstances = str(len(images))
    return list(images)


def test_a_pause_of_10_s_in_an_open_association_splits_nothing(house: House) -> None:
    images = series(Phantom(slices=6))
    house.take(0, opened(), *images[:3])
    assert [house.at(seconds) for seconds in (1, 4, 9.9)] == [""] * 3
    house.take(10, *images[3:], ended())
    assert house.at(12.9) == ""
    assert house.at(13) == "released"


def test_a_known_count_ends_the_wait_with_the_association_open(house: House) -> None:
    images = counted(series(Phantom(slices=6)))
    house.take(0, opened(), *images[:5])
    assert house.at(0.1) == ""
    house.take(1, images[5])
    assert house.at(1.1) == "counted"
    with house.catalogue.read() as connection:
        told = overview.explain(connection, str(images[0].StudyInstanceUID))["complete"]
    assert told["evidence"] == "6 of 6 instances, count from the headers"


def test_a_pause_between_two_associations_splits_once_and_then_no_more(house: House) -> None:
    def send(start: float, number: int) -> None:
        images = series(Phantom(slices=6, study=number))
        first, second = f"{number}a", f"{number}b"
        house.take(start, opened(first), *images[:3], ended(first))
        reasons.append(house.at(start + 9.9))
        house.take(start + 10, opened(second), *images[3:], ended(second))
        reasons.append(house.at(start + 10))
        reasons.append(house.at(start + 24.9))
        reasons.append(house.at(start + 25.1))

    reasons: list[str] = []
    send(0, 1)
    assert reasons == ["released", "", "", "released"], "it was complete too early, and that is how it is learned"
    reasons.clear()
    send(100, 2)
    assert reasons == ["", "", "", "released"]


def test_what_was_acknowledged_before_an_abort_stays_and_the_resent_rest_completes_it(house: House) -> None:
    images = series(Phantom(slices=6))
    house.take(0, opened(), *images[:3], ended(aborted=True))
    assert house.at(20) == ""
    house.take(20, opened("b"), *images[:3])
    assert house.at(45) == "", "known images that come again are no silence"
    house.take(46, AssociationOpened("b", "SCANNER", "10.0.0.1"), *images[3:], ended("b"))
    assert house.at(48.9) == ""
    assert house.at(49) == "released"
    with house.catalogue.read() as connection:
        assert evidence.held_of(connection, str(images[0].StudyInstanceUID)) == 6


def test_an_abort_after_the_last_image_is_mended_by_a_whole_resend(house: House) -> None:
    images = series(Phantom(slices=6))
    house.take(0, opened(), *images, ended(aborted=True))
    house.take(5, opened("b"), *images, ended("b"))
    assert house.at(7.9) == ""
    assert house.at(8) == "released"


def test_a_gap_is_waited_for_until_quiet_and_looked_for_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    places = evidence.places
    monkeypatch.setattr(evidence, "places", lambda *given: looks.append(1) or places(*given))
    images = series(Phantom(slices=6), missing_slice)
    house.take(0, opened(), *images, ended())
    assert [house.at(seconds) for seconds in (2.9, 3, 10, 20, 29.9)] == [""] * 5
    assert len(looks) == 1
    assert house.at(30) == "quiet"


def test_the_missing_slice_fills_the_gap(house: House) -> None:
    whole = series(Phantom(slices=6))
    house.take(0, opened(), *whole[:4], whole[5], ended())
    assert house.at(5) == ""
    house.take(6, opened("b"), whole[4], ended("b"))
    assert house.at(16) == "released"


def test_a_lagging_receiver_makes_no_study_quiet(house: House) -> None:
    house.take(0, opened(), *series(Phantom(slices=3)))
    house.seconds = 40
    with house.catalogue.write() as connection:
        processes.beat(connection, "receiver", house.now(), {"behind_s": 15.0})
    assert house.at(40) == ""
    with house.catalogue.write() as connection:
        processes.beat(connection, "receiver", house.now(), {"behind_s": 0.1})
    assert house.at(40.5) == "quiet"


def test_a_correction_of_every_image_after_a_count_is_one_answer_not_many(house: House) -> None:
    images = counted(series(Phantom(slices=6)))
    house.take(0, opened(), *images)
    assert house.at(0.5) == "counted"
    house.take(1, ended())
    for n, ds in enumerate(images):
        ds.StudyDescription = "corrected"
        house.take(60 + n, *([opened("b")] if n == 0 else []), AssociationOpened("b", "SCANNER", "10.0.0.1"), ds)
        assert house.at(60.5 + n) == ""
    house.take(66, ended("b"))
    assert house.at(69) == "released"

"""What a repeated SOP Instance UID means, and that no acknowledged file is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from pydicom import Dataset
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from appliance.catalogue import Catalogue, events, evidence, outbox, overview, receiving, retention, routing, studies
from appliance.catalogue.connection import now
from appliance.catalogue.tables import association, instance, study
from dicom_nodes.indexer import (
    AssociationEnded,
    AssociationOpened,
    AssociationsAlive,
    FileKept,
    Indexer,
    MessageKept,
)
from dicom_nodes.instance_reader import is_routable, patient_key, read_instance
from dicom_nodes.message import Message
from dicom_nodes.spool import Spool
from tests.phantoms import Phantom, part10, quiet, raw_element, series
from tests.written import commitment_report, notification, references, step


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool", 0)
    made.prepare()
    return made


@pytest.fixture
def indexer(catalogue: Catalogue, spool: Spool) -> Iterator[Indexer]:
    made = Indexer(catalogue, spool)
    made.start()
    yield made
    made.close()


def send(indexer: Indexer, *objects: Dataset, syntax: str = "explicit") -> None:
    for ds in objects:
        kept = indexer.spool.keep(str(ds.SOPInstanceUID), part10(ds, syntax))
        indexer.put(FileKept(kept.path))


def rows(indexer: Indexer) -> list[Any]:
    indexer.close()
    with indexer.catalogue.read() as connection:
        return list(connection.execute(select(instance).order_by(instance.c.id)).all())


def test_a_series_is_indexed_with_its_geometry(indexer: Indexer) -> None:
    images = series(Phantom())
    indexer.put(AssociationOpened("a", "SCANNER", "10.0.0.1"))
    send(indexer, *images)
    indexer.put(AssociationEnded("a", aborted=False))
    found = rows(indexer)
    assert [row.state for row in found] == ["current"] * len(images)
    with indexer.catalogue.read() as connection:
        summary = routing.study_summary(connection, str(images[0].StudyInstanceUID))
    assert len(summary.series[0].geometry) == len(images)
    assert summary.series[0].attributes["Modality"] == "MR"
    assert not {"PatientName", "PatientID", "PatientBirthDate"} & set(summary.series[0].attributes)


def test_the_same_bytes_again_are_counted(indexer: Indexer) -> None:
    ds = series()[0]
    send(indexer, ds, ds)
    (row,) = rows(indexer)
    assert (row.times_received, row.revision) == (2, 1)


@pytest.mark.parametrize("syntax", ["implicit", "big", "rle", "j2k"])
def test_the_same_content_in_another_encoding_is_counted_and_not_kept_twice(indexer: Indexer, syntax: str) -> None:
    ds = series()[0]
    send(indexer, ds)
    send(indexer, ds, syntax=syntax)
    (row,) = rows(indexer)
    assert row.times_received == 2
    assert len(list(indexer.spool.files())) == 1


def test_another_header_is_a_revision_and_the_newest_counts(indexer: Indexer) -> None:
    ds = series()[0]
    send(indexer, ds)
    ds.StudyDescription = "corrected"
    send(indexer, ds)
    first, second = rows(indexer)
    assert (first.state, second.state, second.revision) == ("replaced", "current", 2)


def test_other_pixels_are_a_conflict_and_block_the_study(indexer: Indexer) -> None:
    ds = series()[6]
    send(indexer, ds)
    ds.PixelData = bytes(len(ds.PixelData))
    send(indexer, ds)
    first, second = rows(indexer)
    assert (first.state, second.state) == ("current", "conflict")
    with indexer.catalogue.read() as connection:
        assert "other pixels" in routing.study_summary(connection, str(ds.StudyInstanceUID)).problem


def test_a_file_that_is_no_dicom_is_set_aside_and_blocks_nothing(indexer: Indexer) -> None:
    images = series()
    kept = indexer.spool.keep("1.2.3", b"not DICOM at all" * 50)
    indexer.put(FileKept(kept.path))
    send(indexer, *images)
    found = rows(indexer)
    assert [row.state for row in found].count("unreadable") == 1
    with indexer.catalogue.read() as connection:
        assert overview.explain(connection, str(images[0].StudyInstanceUID))["instances"] == len(images)


def test_a_crash_between_acknowledgement_and_row_loses_nothing(catalogue: Catalogue, spool: Spool) -> None:
    whole, torn = series()[:2]
    kept = spool.keep(str(whole.SOPInstanceUID), part10(whole))
    broken = spool.keep(str(torn.SOPInstanceUID), part10(torn))
    (spool.folder / broken.path).write_bytes(b"torn")
    indexer = Indexer(catalogue, spool)
    indexer.start()
    assert indexer.adopt() == 1
    (row,) = rows(indexer)
    assert row.path == kept.path
    assert len(list(spool.aside.iterdir())) == 1
    with catalogue.read() as connection:
        assert receiving.paths_known(connection) == {kept.path}


def test_documents_open_no_input_set_and_do_not_reopen_a_study(indexer: Indexer) -> None:
    image = series()[0]
    report = Dataset()
    report.update({e.tag: e for e in deepcopy(image) if e.tag.group in (0x0008, 0x0010, 0x0020)})
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"
    report.SOPInstanceUID = "1.2.3.4"
    report.Modality = "SR"
    send(indexer, image)
    while not indexer.arrivals.empty():
        pass
    study = str(image.StudyInstanceUID)
    _until_known(indexer, study)
    with indexer.catalogue.write() as connection:
        facts = evidence.receiving_studies(connection, now())[study]
        evidence.complete_study(connection, study, "released", facts.last_received_at, facts.last_received_at)
    send(indexer, report)
    found = rows(indexer)
    assert [row.state for row in found] == ["current", "document"]
    with indexer.catalogue.read() as connection:
        assert studies.is_complete(connection, study)


def _until_known(indexer: Indexer, study: str) -> None:
    for _ in range(200):
        with indexer.catalogue.read() as connection:
            if study in evidence.receiving_studies(connection, now()):
                return
        time.sleep(0.02)
    raise AssertionError("never indexed")


def test_patients_are_told_apart_by_id_else_by_name_and_birth_date() -> None:
    def key(**values: str) -> str:
        ds = Dataset()
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        return patient_key(ds)

    assert key(PatientID="1", PatientName="A") == key(PatientID="1 ", PatientName="B")
    assert key(PatientID="1") != key(PatientID="2")
    assert key(PatientName="A") != key(PatientName="B")
    assert key(PatientID="1") != key(PatientName="1")


def test_a_catalogue_that_is_away_for_a_while_loses_nothing(indexer: Indexer, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Catalogue.write
    failures = iter(range(2))

    def away(self: Catalogue) -> Any:
        if next(failures, None) is not None:
            raise OperationalError("INSERT", {}, Exception("the server closed the connection"))
        return write(self)

    monkeypatch.setattr(Catalogue, "write", away)
    send(indexer, *series(Phantom(slices=3)))
    assert [row.state for row in rows(indexer)] == ["current"] * 3


def test_a_header_that_goes_back_and_forth_counts_as_it_came_last(indexer: Indexer) -> None:
    first = series(Phantom(slices=1))[0]
    second = deepcopy(first)
    second.StudyDescription = "corrected"
    send(indexer, first, second, first, second, second, first)
    found = rows(indexer)
    assert len(found) == 2
    (current,) = [row for row in found if row.state == "current"]
    assert b"corrected" not in (indexer.spool.folder / current.path).read_bytes()
    assert not indexer.is_alive()


@pytest.mark.parametrize("what", ["conflict", "unreadable"])
def test_what_is_set_aside_may_come_again(indexer: Indexer, what: str) -> None:
    images = series(Phantom(slices=2))
    send(indexer, images[0])
    if what == "conflict":
        images[0].PixelData = bytes([1]) * len(images[0].PixelData)
        send(indexer, images[0], images[0])
    else:
        for _ in range(2):
            indexer.put(FileKept(indexer.spool.keep("1.2.3", b"no DICOM" * 99).path))
    send(indexer, images[1])
    found = rows(indexer)
    assert sorted(row.state for row in found) == sorted(["current", "current", what])


@pytest.mark.parametrize("broken", [b"\x28\x00\x10\x00US\x03\x00\x01\x02\x03", b"\x28\x00\x08\x00IS\x04\x00junk"])
def test_an_element_that_cannot_be_read_stops_nothing(indexer: Indexer, broken: bytes) -> None:
    images = series(Phantom(slices=2))
    content = part10(images[0])
    at = content.index(b"\x28\x00\x02\x00")
    kept = indexer.spool.keep(str(images[0].SOPInstanceUID), content[:at] + broken + content[at:])
    indexer.put(FileKept(kept.path))
    send(indexer, images[1])
    assert str(images[1].SOPInstanceUID) in {row.sop_instance_uid for row in rows(indexer)}


def test_a_transfer_syntax_that_nobody_knows_is_set_aside(indexer: Indexer) -> None:
    images = series(Phantom(slices=2))
    content = part10(images[0]).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.113619.5.29", 1)
    indexer.put(FileKept(indexer.spool.keep(str(images[0].SOPInstanceUID), content).path))
    send(indexer, images[1])
    assert len(rows(indexer)) == 2


def test_a_resent_file_after_retention_is_kept_again(indexer: Indexer) -> None:
    ds = series(Phantom(slices=1))[0]
    send(indexer, ds)
    _until_known(indexer, str(ds.StudyInstanceUID))
    with indexer.catalogue.write() as connection:
        known = receiving.known_instance(connection, str(ds.SOPInstanceUID))
        assert known is not None
        retention.mark_removed(connection, [known.id])
    indexer.spool.remove(known.path)
    send(indexer, ds, syntax="implicit")
    (row,) = rows(indexer)
    assert row.file_removed == 0
    assert (indexer.spool.folder / row.path).exists()


def test_what_comes_again_after_retention_is_kept_for_as_long_once_more(indexer: Indexer) -> None:
    first, other = series(Phantom(slices=1)), series(replace(Phantom(slices=1), study=2))
    send(indexer, *first, *other)
    indexer.close()
    month_ago, kept_for = now() - timedelta(days=40), timedelta(days=30)
    with indexer.catalogue.write() as connection:
        connection.execute(update(instance).values(received_at=month_ago))
        connection.execute(update(study).values(state="complete", routed=1))
        old = retention.removable_files(connection, now() - kept_for)
        retention.mark_removed(connection, [id for id, _ in old])
    assert len(old) == 2
    for _, path in old:
        indexer.spool.remove(path)
    again = Indexer(indexer.catalogue, indexer.spool)
    again.start()
    send(again, *first)
    assert [row.file_removed for row in rows(again)] == [0, 1]
    with indexer.catalogue.read() as connection:
        assert retention.removable_files(connection, now() - kept_for) == []
        assert len(retention.removable_files(connection, now() + timedelta(seconds=1))) == 1
        told = events.of_study(connection, str(first[0].StudyInstanceUID))
        assert connection.execute(select(instance.c.received_at)).scalars().first() == month_ago
    assert [one["detail"] for one in told if one["kind"] == retention.CAME_AGAIN] == [{"count": 1}]


@pytest.mark.parametrize(
    ("keyword", "kept"),
    [
        ("ProtocolName", True),
        ("StationName", True),
        ("SequenceName", True),
        ("PatientSex", True),
        ("PatientName", False),
        ("PatientID", False),
        ("OtherPatientIDs", False),
        ("ResponsiblePerson", False),
        ("ReferringPhysicianName", False),
        ("OperatorsName", False),
    ],
)
def test_routes_may_match_on_what_names_no_person(keyword: str, kept: bool) -> None:
    assert is_routable(keyword) is kept


# --- counts and associations ---


def facts_of(indexer: Indexer, ds: Dataset) -> Any:
    indexer.close()
    with indexer.catalogue.read() as connection:
        return evidence.receiving_studies(connection, now())[str(ds.StudyInstanceUID)]


def test_counts_and_numbers_are_read_from_the_header(indexer: Indexer) -> None:
    images = series(Phantom(slices=3))
    for ds in images:
        ds.NumberOfStudyRelatedInstances, ds.NumberOfSeriesRelatedInstances = "7", "3"
    send(indexer, *images)
    assert [row.number for row in rows(indexer)] == [1, 2, 3]
    facts = facts_of(indexer, images[0])
    assert (facts.expected, facts.expected_varies, facts.held) == (7, False, 3)
    assert [(one.held, one.expected) for one in facts.series] == [(3, 3)]


@pytest.mark.parametrize(
    "odd", [b"", b"many", b"0 ", b"-3", b"1e99", b"nan ", b"2.5 ", b"3\\4 ", b"9999999999999999", b"\xff\xfe"]
)
def test_odd_counts_and_numbers_are_ignored(indexer: Indexer, odd: bytes) -> None:
    (ds,) = series(Phantom(slices=1))
    with quiet():
        del ds.InstanceNumber
        for tag in (0x00200013, 0x00201208, 0x00201209):
            ds.add(raw_element(tag, "IS", odd))
    send(indexer, ds)
    (row,) = rows(indexer)
    assert row.state == "current"
    assert row.number == (int(odd) if odd in (b"0 ", b"-3") else None)
    facts = facts_of(indexer, ds)
    assert facts.expected is None
    assert facts.series == [], "no series has a count"


def test_attributes_are_those_of_the_first_image_in_any_batch(indexer: Indexer) -> None:
    images = series(Phantom(slices=4))
    for n, ds in enumerate(images):
        ds.SeriesDescription = f"image {n}"
    send(indexer, images[0], images[1])
    _until_known(indexer, str(images[0].StudyInstanceUID))
    send(indexer, images[2], *series(Phantom(slices=2, series=2)), images[3])
    rows(indexer)
    with indexer.catalogue.read() as connection:
        found = routing.study_summary(connection, str(images[0].StudyInstanceUID)).series
    assert sorted(one.attributes["SeriesDescription"] for one in found) == ["T1 SAG MPRAGE", "image 0"]


def test_associations_stay_open_over_a_restart_of_the_indexer(catalogue: Catalogue, spool: Spool) -> None:
    images = series(Phantom(slices=2))
    first = Indexer(catalogue, spool)
    first.start()
    first.put(AssociationOpened("a", "SCANNER", "10.0.0.1"))
    first.put(FileKept(spool.keep(str(images[0].SOPInstanceUID), part10(images[0])).path, "a"))
    first.close()
    second = Indexer(catalogue, spool)
    second.start()
    second.adopt()
    with catalogue.write() as connection:
        connection.execute(association.update().values(lease_until=now()))
    second.put(AssociationsAlive(("a", "unknown")))
    second.put(FileKept(spool.keep(str(images[1].SOPInstanceUID), part10(images[1])).path, "a"))
    (open_one,) = facts_of(second, images[0]).associations
    assert open_one.ended_at is None
    assert (open_one.lease_until - now()).total_seconds() > 15
    third = Indexer(catalogue, spool)
    third.start()
    third.put(AssociationOpened("a", "SCANNER", "10.0.0.1"))
    third.put(AssociationEnded("a", aborted=False))
    (ended,) = facts_of(third, images[0]).associations
    assert ended.ended_at is not None
    assert not ended.aborted


# --- files and messages that a scan finds ---


def test_a_file_found_by_a_scan_and_announced_as_well_is_one_row(catalogue: Catalogue, spool: Spool) -> None:
    (ds,) = series(Phantom(slices=1))
    kept = spool.keep(str(ds.SOPInstanceUID), part10(ds))
    for first in ("scan", "word"):
        indexer = Indexer(catalogue, spool)
        indexer.put(AssociationOpened("a", "SCANNER", "10.0.0.1"))
        if first == "scan":
            assert indexer.adopt() == 1
        indexer.put(FileKept(kept.path, "a"))
        indexer.put(FileKept(kept.path, adopted=True))
        indexer.start()
        (row,) = rows(indexer)
        assert row.revision == 1
        assert len(facts_of(indexer, ds).associations) == 1
        assert indexer.adopt() == 0


def test_a_scan_does_not_bring_an_older_header_back(catalogue: Catalogue, spool: Spool) -> None:
    (old,) = series(Phantom(slices=1))
    new = deepcopy(old)
    new.StudyDescription = "corrected"
    paths = [spool.keep(str(ds.SOPInstanceUID), part10(ds)).path for ds in (old, new)]
    indexer = Indexer(catalogue, spool)
    for path in paths:
        indexer.put(FileKept(path, "a"))
    indexer.put(FileKept(paths[0], adopted=True))
    indexer.start()
    assert [row.state for row in rows(indexer)] == ["replaced", "current"]


def keep_message(spool: Spool, message: Message, name: str) -> str:
    content = message.encode()
    path = f"message/{name * 32}.{len(content)}.{crc32(content):08x}.0.msg"
    (spool.folder / path).write_bytes(content)
    return path


def test_messages_become_rows_and_their_files_go(indexer: Indexer) -> None:
    images = series(Phantom(slices=2))
    study = str(images[0].StudyInstanceUID)
    here, absent = str(images[0].SOPInstanceUID), "1.2.3.4"
    told = {
        "aa": notification(study, references([here, absent])),
        "bb": step("N-CREATE", "IN PROGRESS", [study]),
        "cc": commitment_report("7.1", ["1.1"]),
        "dd": notification(study, references([here, absent])),
    }
    send(indexer, images[0])
    for name, message in told.items():
        path = keep_message(indexer.spool, message, name)
        indexer.put(MessageKept(path))
        indexer.put(MessageKept(path))
    found = facts_of(indexer, images[0]).announcements
    assert (found.instances, found.missing, found.in_progress) == (2, 1, 1)
    with indexer.catalogue.read() as connection:
        assert [row.transaction_uid for row in outbox.unread_reports(connection)] == ["7.1"]
    assert list(indexer.spool.messages()) == []
    assert list(indexer.spool.aside.iterdir()) == []


def test_messages_that_a_crash_left_are_adopted_in_their_order_and_torn_ones_set_aside(
    catalogue: Catalogue, spool: Spool
) -> None:
    (ds,) = series(Phantom(slices=1))
    study, uid = str(ds.StudyInstanceUID), str(ds.SOPInstanceUID)
    indexer = Indexer(catalogue, spool)
    spool.keep(uid, part10(ds))
    keep_message(spool, step("N-CREATE", "IN PROGRESS", [study]), "ff")
    keep_message(spool, step("N-SET", "COMPLETED", images=[uid]), "aa")
    keep_message(spool, replace(notification(study), transfer_syntax_uid="1.2"), "bb")
    torn = keep_message(spool, notification(study), "cc")
    (spool.folder / torn).write_bytes(b"torn")
    indexer.start()
    assert indexer.adopt() == 4
    found = facts_of(indexer, ds).announcements
    assert (found.instances, found.missing, found.in_progress) == (1, 0, 0)
    assert len(list(spool.aside.iterdir())) == 2
    assert list(spool.messages()) == []


# --- how far behind ---


def test_the_indexer_says_how_far_it_is_behind(indexer: Indexer, monkeypatch: pytest.MonkeyPatch) -> None:
    away = threading.Event()
    write = Catalogue.write

    def waiting(self: Catalogue) -> Any:
        away.wait(5)
        return write(self)

    assert indexer.behind_s() == 0
    monkeypatch.setattr(Catalogue, "write", waiting)
    send(indexer, *series(Phantom(slices=1)))
    time.sleep(0.3)
    assert 0.2 < indexer.behind_s() < 5
    away.set()
    rows(indexer)
    assert indexer.behind_s() == 0


def test_a_file_that_could_not_be_read_once_is_indexed_when_it_comes_again(indexer: Indexer) -> None:
    (ds,) = series(Phantom(slices=1))
    kept = indexer.spool.keep(str(ds.SOPInstanceUID), part10(ds))
    row, _ = read_instance(indexer.spool.folder, FileKept(kept.path))
    empty = dict.fromkeys(("study_instance_uid", "series_instance_uid", "header_digest", "pixel_digest"), "")
    bad = replace(row, state="unreadable", sop_instance_uid=Path(kept.path).name[:64], geometry=[], **empty)
    with indexer.catalogue.write() as connection:
        receiving.add_instance(connection, bad, 1, "unreadable")
    indexer.put(FileKept(kept.path))
    assert [(one.state, one.path) for one in rows(indexer)] == [("current", kept.path)]


def test_what_retention_began_is_finished_and_not_taken_for_new(indexer: Indexer) -> None:
    (ds,) = series(Phantom(slices=1))
    send(indexer, ds)
    (row,) = rows(indexer)
    with indexer.catalogue.write() as connection:
        retention.mark_removed(connection, [row.id])
    assert (indexer.spool.folder / row.path).exists(), "killed before it was deleted"
    again = Indexer(indexer.catalogue, indexer.spool)
    assert again.adopt() == 0
    assert not (indexer.spool.folder / row.path).exists()


def test_what_came_again_after_its_removal_is_adopted(indexer: Indexer) -> None:
    (ds,) = series(Phantom(slices=1))
    send(indexer, ds)
    (row,) = rows(indexer)
    with indexer.catalogue.write() as connection:
        retention.mark_removed(connection, [row.id])
    later = row.received_at.timestamp() + 60
    os.utime(indexer.spool.folder / row.path, (later, later))
    again = Indexer(indexer.catalogue, indexer.spool)
    assert again.adopt() == 1
    again.start()
    (found,) = rows(again)
    assert found.file_removed == 0


def test_a_disk_in_trouble_is_waited_for(indexer: Indexer, monkeypatch: pytest.MonkeyPatch) -> None:
    (ds,) = series(Phantom(slices=1))
    read, failures = read_instance, [OSError(5, "Input/output error"), OSError(24, "Too many open files")]

    def sometimes(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return read(*arguments)

    monkeypatch.setattr("dicom_nodes.indexer.read_instance", sometimes)
    send(indexer, ds)
    assert [one.state for one in rows(indexer)] == ["current"]
    assert failures == []

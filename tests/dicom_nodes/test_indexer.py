"""What a repeated SOP Instance UID means, and that no acknowledged file is lost."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from appliance.catalogue import Catalogue, overview, receiving, routing
from appliance.catalogue.tables import instance
from dicom_nodes.indexer import AssociationEnded, AssociationOpened, FileKept, Indexer, is_routable, patient_key
from dicom_nodes.spool import Spool
from tests.phantoms import Phantom, part10, series


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
        facts = receiving.receiving_studies(connection)[study]
        receiving.complete_study(connection, study, "released", facts.last_received_at, facts.last_received_at)
    send(indexer, report)
    found = rows(indexer)
    assert [row.state for row in found] == ["current", "document"]
    with indexer.catalogue.read() as connection:
        assert receiving.is_complete(connection, study)


def _until_known(indexer: Indexer, study: str) -> None:
    for _ in range(200):
        with indexer.catalogue.read() as connection:
            if study in receiving.receiving_studies(connection):
                return
        import time

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
        receiving.mark_removed(connection, [known.id])
    indexer.spool.remove(known.path)
    send(indexer, ds, syntax="implicit")
    (row,) = rows(indexer)
    assert row.file_removed == 0
    assert (indexer.spool.folder / row.path).exists()


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

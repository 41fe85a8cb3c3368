"""A radiologist's correction comes back through the real receiver and becomes a label; whatever else comes back is
told with its reason, and never becomes one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, build_context
from sqlalchemy import select, update

from appliance.catalogue import Catalogue, corrections, events, overview, retention, training
from appliance.catalogue.connection import now
from appliance.catalogue.tables import instance, job, result
from appliance.catalogue.training_tables import correction, training_case
from appliance.settings import parse
from appliance.training_set import folder_of
from dicom_nodes.arrivals import FileKept
from dicom_nodes.indexer import Indexer
from models.reading import Reading
from tests import phantoms
from tests.dicom_nodes.conftest import OpenDoor
from tests.phantoms import Phantom, series
from tests.workers.test_line import SETTINGS, Line
from workers.corrections import UNRELATED, Corrections
from workers.kept_cases import sweep
from workers.pipeline import Inferred
from workers.sidecar.cases import count_cases

PHANTOM = Phantom(slices=32, rows=40, columns=36, spacing=(4.0, 3.0, 3.0))
FEDERATION = """
[federation]
coordinator = "grpcs://fl.example.org:8002"
kit = "kit"
packages = ["brain-structures"]
"""
AUTHOR = "Curie^Irene"


class Drawn:
    """An engine that finds what the phantom shows, at once."""

    def __init__(self) -> None:
        self.labels = phantoms.label_map(PHANTOM)

    def read(self, *what: Any) -> Inferred:
        return Inferred(Reading((self.labels,)), "openvino", "f32", 0.0)

    def loaded(self) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@pytest.fixture
def line(catalogue: Catalogue, tmp_path: Path) -> Line:
    made = Line(parse(SETTINGS + FEDERATION, tmp_path / "curie.toml"), catalogue)
    made.worker.engine = Drawn()  # type: ignore[assignment]
    return made


@pytest.fixture
def study(line: Line) -> str:
    found = line.receive(series(PHANTOM))
    assert line.worker.drain() == 1
    return found


def ours(line: Line, role: str = "SEG") -> Dataset:
    """Return our result."""
    with line.catalogue.read() as connection:
        path = connection.execute(select(result.c.path).where(result.c.role == role)).scalars().one()
    return dcmread(line.settings.results_dir / path)


def edited(ds: Dataset, number: int = 1) -> Dataset:
    """Return a SEG as a workstation saves it: another UID, maker, author and time; eight pixels of one frame more."""
    ds.SOPInstanceUID, ds.SeriesInstanceUID = phantoms.uid(7, number), phantoms.uid(7, 99)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.Manufacturer, ds.ManufacturerModelName = "Workstation Works", "Brush"
    ds.ContentCreatorName, ds.ContentDate, ds.ContentTime = AUTHOR, "20240301", f"12{number:02}00"
    del ds.ContributingEquipmentSequence, ds.DeviceUID
    pixels = bytearray(ds.PixelData)
    pixels[0] = 0xFF
    ds.PixelData = bytes(pixels)
    return ds


def written(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def come_back(line: Line, ds: Dataset) -> None:
    """Let an object arrive, and be looked at."""
    kept = line.spool.keep(str(ds.SOPInstanceUID), written(ds))
    indexer = Indexer(line.catalogue, line.spool)
    indexer._write([FileKept(kept.path, "a")])
    Corrections(line.settings, line.catalogue).step()


def rows(line: Line, table: Any = training_case) -> list[Any]:
    with line.catalogue.read() as connection:
        return list(connection.execute(select(table)).all())


def decided(line: Line) -> tuple[str, str]:
    """Return state and reason of the newest object that came back."""
    newest = max(rows(line, correction), key=lambda row: row.received_at)
    return newest.state, newest.reason


def labels_in(line: Line, row: Any) -> Any:
    with np.load(folder_of(line.settings) / row.path, allow_pickle=False) as found:
        return dict(found)


def test_an_edited_segmentation_sent_by_c_store_is_kept_as_a_label(
    line: Line, study: str, tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    listening = f'[receiver]\nhost = "127.0.0.1"\nport = {free_port}\nunknown_sources = "accept"\n'
    door = OpenDoor(parse(SETTINGS + listening, tmp_path / "curie.toml"))
    indexer = Indexer(line.catalogue, line.spool)
    indexer.start()
    door.acceptor.put = indexer.put
    before = phantoms.label_map(PHANTOM)
    ds = edited(ours(line))
    try:
        peer = AE("WORKSTATION").associate(*door.address, [build_context(ds.SOPClassUID)], ae_title="CURIE")
        assert peer.send_c_store(ds).Status == 0
        peer.release()
        door.wait(lambda: rows(line, correction))
    finally:
        door.close()
        indexer.close()
    Corrections(line.settings, line.catalogue).step()
    (case,) = rows(line)
    assert (case.package, case.source, case.author, case.study_instance_uid) == (
        "brain-structures", "correction", AUTHOR, study,
    )  # fmt: skip
    assert case.labelled_at.strftime("%Y%m%d%H%M") == "202403011201"
    assert case.scanner == "Phantom Works Ellipsoid"
    held = labels_in(line, case)
    changed = np.flatnonzero(held["labels"].ravel() != before.ravel())
    assert 0 < len(changed) <= 8
    assert np.array_equal(held["voxels"], phantoms.head(PHANTOM))
    assert "PH-1" not in str(held["patient"])
    assert count_cases(line.settings, line.catalogue, "brain-structures") == 1
    with line.catalogue.read() as connection:
        told = overview.explain(connection, study)["corrections"]
        happened = [one for one in events.of_study(connection, study) if one["kind"] == "correction_kept"]
    assert [one["state"] for one in told] == ["kept"]
    assert len(happened) == 1
    assert AUTHOR not in json.dumps(happened, default=str) + capsys.readouterr().err


def test_a_newer_correction_replaces_the_older_and_never_the_other_way_round(line: Line, study: str) -> None:
    come_back(line, edited(ours(line), 5))
    come_back(line, edited(ours(line), 9))
    come_back(line, edited(ours(line), 3))
    assert decided(line) == ("not_kept", training.OLDER)
    live, gone = sorted(rows(line), key=lambda row: row.withdrawn_at is not None)
    assert (live.label_uid, gone.label_uid) == (phantoms.uid(7, 9), phantoms.uid(7, 5))
    assert gone.reason == training.REPLACED
    assert count_cases(line.settings, line.catalogue, "brain-structures") == 1


def test_what_came_back_is_decided_on_once(line: Line, study: str) -> None:
    come_back(line, edited(ours(line)))
    (before,) = rows(line, correction)
    Corrections(line.settings, line.catalogue).step()
    assert rows(line, correction) == [before]
    assert len(rows(line)) == 1


def test_our_own_results_are_no_corrections(line: Line, study: str) -> None:
    for role in ("SEG", "SR"):
        come_back(line, ours(line, role))
    assert rows(line, correction) == []


def test_without_tracking_uids_codes_on_the_same_images_say_whose_it_is(line: Line, study: str) -> None:
    ds = edited(ours(line))
    for item in ds.SegmentSequence:
        del item.TrackingUID, item.TrackingID
    come_back(line, ds)
    assert decided(line) == ("kept", "")


def no_segments_of_ours(ds: Dataset) -> None:
    for item in ds.SegmentSequence:
        del item.TrackingUID, item.TrackingID
        item.SegmentedPropertyTypeCodeSequence[0].CodeValue = "4421005"
    ds.FrameOfReferenceUID = "2.25.5"
    del ds.ReferencedSeriesSequence


def one_structure_less(ds: Dataset) -> None:
    del ds.SegmentSequence[-1]


def of_another_patient(ds: Dataset) -> None:
    ds.PatientID = "SOMEBODY"


def half_a_voxel_off(ds: Dataset) -> None:
    for item in ds.PerFrameFunctionalGroupsSequence:
        item.PlanePositionSequence[0].ImagePositionPatient[0] += 1.5


def as_if_of_a_curie(ds: Dataset) -> None:
    ds.Manufacturer, ds.DeviceUID = "Petite Curie", "2.25.1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (no_segments_of_ours, UNRELATED),
        (one_structure_less, "it does not say where"),
        (of_another_patient, "another patient"),
        (half_a_voxel_off, "does not lie on the voxels"),
        (as_if_of_a_curie, "this software made it"),
    ],
)
def test_what_is_no_label_is_told_with_its_reason(
    line: Line, study: str, change: Callable[[Dataset], None], reason: str
) -> None:
    ds = edited(ours(line))
    change(ds)
    come_back(line, ds)
    state, why = decided(line)
    assert state == "not_kept"
    assert reason in why
    assert rows(line) == []
    with line.catalogue.read() as connection:
        happened = [one for one in events.of_study(connection, study) if one["kind"] == "correction_not_kept"]
    assert [one["detail"]["reason"] for one in happened] == [why]


def test_a_package_that_the_site_does_not_name_gets_no_cases(line: Line, study: str) -> None:
    ds = edited(ours(line))
    federation = line.settings.federation
    assert federation is not None
    line.settings = line.settings.model_copy(update={"federation": federation.model_copy(update={"packages": ()})})
    come_back(line, ds)
    assert "does not name brain-structures" in decided(line)[1]


def test_an_edited_report_is_noted_and_makes_no_label(line: Line, study: str) -> None:
    ds = edited_report(ours(line, "SR"))
    come_back(line, ds)
    assert decided(line)[0] == "noted"
    assert rows(line) == []


def test_a_report_of_something_else_is_no_event(line: Line, study: str) -> None:
    ds = edited_report(ours(line, "SR"))
    ds.ContentSequence = []
    del ds.CurrentRequestedProcedureEvidenceSequence
    come_back(line, ds)
    assert decided(line)[0] == "unrelated"
    with line.catalogue.read() as connection:
        assert not any(one["kind"].startswith("correction") for one in events.of_study(connection, study))


def edited_report(ds: Dataset) -> Dataset:
    """Return a report as a workstation saves it."""
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = phantoms.uid(7, 2)
    ds.SeriesInstanceUID, ds.Manufacturer = phantoms.uid(7, 98), "Workstation Works"
    del ds.ContributingEquipmentSequence, ds.DeviceUID
    return ds


def test_images_that_retention_removed_are_missed_in_words(line: Line, study: str) -> None:
    ds = edited(ours(line))
    with line.catalogue.write() as connection:
        images = connection.execute(select(instance.c.id)).scalars().all()
        retention.mark_removed(connection, images)
    come_back(line, ds)
    assert "not in the spool" in decided(line)[1]


def test_an_object_that_ends_the_process_is_given_up(line: Line, study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("workers.corrections.read_labels", break_down)
    kept = line.spool.keep("1.2.3", written(edited(ours(line))))
    Indexer(line.catalogue, line.spool)._write([FileKept(kept.path, "a")])
    for _ in range(corrections.MOST_TRIES):
        with pytest.raises(MemoryError):
            Corrections(line.settings, line.catalogue).step()
    Corrections(line.settings, line.catalogue).step()
    assert "ended the process" in decided(line)[1]


def test_nothing_is_looked_at_while_a_job_may_still_answer(line: Line) -> None:
    study = line.receive(series(PHANTOM))
    assert line.worker.drain() == 1
    ds = edited(ours(line))
    with line.catalogue.write() as connection:
        connection.execute(update(job).values(state="running"))
    come_back(line, ds)
    assert [row.state for row in rows(line, correction)] == ["waiting"]
    with line.catalogue.write() as connection:
        connection.execute(update(job).values(state="completed"))
    Corrections(line.settings, line.catalogue).step()
    assert decided(line)[0] == "kept"
    assert study


def test_a_patient_who_opted_out_is_not_learned_from(line: Line, study: str) -> None:
    come_back(line, edited(ours(line), 1))
    (case,) = rows(line)
    with line.catalogue.write() as connection:
        assert training.opt_patient_out(connection, case.patient, "asked", now()) == 1
    come_back(line, edited(ours(line), 2))
    assert decided(line) == ("not_kept", training.OPTED_OUT)
    assert count_cases(line.settings, line.catalogue, "brain-structures") == 0


def test_cases_whose_time_is_over_are_withdrawn_and_files_of_no_case_removed(line: Line, study: str) -> None:
    come_back(line, edited(ours(line), 1))
    come_back(line, edited(ours(line), 2))
    folder = folder_of(line.settings)
    assert len(list(folder.glob("*/*.npz"))) == 2
    sweep(line.settings, line.catalogue, now() + timedelta(days=2))
    assert [one.name for one in folder.glob("*/*.npz")] == [
        Path(row.path).name for row in rows(line) if row.withdrawn_at is None
    ]
    sweep(line.settings, line.catalogue, now() + timedelta(days=2000))
    sweep(line.settings, line.catalogue, now() + timedelta(days=2000))
    assert list(folder.glob("*/*.npz")) == []
    assert sorted(row.reason for row in rows(line)) == sorted([training.REPLACED, training.EXPIRED])

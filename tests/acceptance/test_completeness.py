"""When a study starts: by evidence, not by the clock. Real peers, a real PACS, `curie up`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, build_context
from pynetdicom.sop_class import ModalityPerformedProcedureStep  # type: ignore[attr-defined]
from sqlalchemy import select

from appliance.catalogue import open_catalogue
from appliance.catalogue.tables import event
from appliance.settings import load
from tests.acceptance.house import Appliance, Orthanc, free_port, wait_for
from tests.acceptance.test_killed import small_head
from tests.raw_peer import ABORT, C_STORE, COMMAND, EXPLICIT, LAST, MR, RawPeer, command, data, fragment, pdu

pytestmark = pytest.mark.acceptance
Pair = tuple[Appliance, Orthanc]
PAUSE_S = 10.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """An appliance that may ask its PACS for counts."""
    folder = tmp_path_factory.mktemp("evidence")
    orthanc = Orthanc(folder / "orthanc", free_port())
    appliance = Appliance(folder / "curie", orthanc.port, port=orthanc.curie_port)
    text = appliance.file.read_text()
    appliance.file.write_text(text.replace('name = "pacs"\n', 'name = "pacs"\nfind = true\n'))
    orthanc.start()
    try:
        appliance.start()
        yield appliance, orthanc
        assert appliance.stop() == 0
    finally:
        if appliance.process and appliance.process.poll() is None:
            appliance.process.kill()
        orthanc.stop()


def head(folder: Path, number: int, change: Callable[[Dataset], None] = lambda ds: None) -> tuple[str, list[Dataset]]:
    """Return a study and its images, each changed."""
    study = small_head(folder, number)
    images = [dcmread(file) for file in sorted(folder.rglob("*.dcm"))]
    images.sort(key=lambda ds: int(ds.InstanceNumber))
    for ds in images:
        change(ds)
    return study, images


class Sending:
    """One association of SCANNER."""

    def __init__(self, appliance: Appliance) -> None:
        self.peer = RawPeer(("127.0.0.1", appliance.port), timeout=30)
        self.peer.associate([(1, MR, [EXPLICIT])])
        self._id = 0

    def send(self, images: Sequence[Dataset]) -> None:
        """Send images, each acknowledged."""
        for ds in images:
            self._id += 1
            body = encoded(ds)
            asked = data(fragment(1, COMMAND | LAST, command(C_STORE, self._id, MR, str(ds.SOPInstanceUID))))
            self.peer.send(asked + data(fragment(1, LAST, body)))
            assert self.peer.status(self._id) == 0


def encoded(ds: Dataset) -> bytes:
    """Return the data set's bytes, Explicit VR Little Endian."""
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    content = stream.getvalue()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def started(appliance: Appliance, study: str) -> dict[str, Any]:
    """Wait until the study's job has started; return what `explain` says."""

    def found() -> bool:
        return any(one["state"] != "queued" for one in jobs_of(appliance, study))

    wait_for("a job", found, 90)
    told: dict[str, Any] = appliance.json("explain", study)
    return told


def jobs_of(appliance: Appliance, study: str) -> list[dict[str, Any]]:
    return [one for one in appliance.json("jobs", "list") if one["study_instance_uid"] == study]


def completions(appliance: Appliance, study: str) -> int:
    """Wait until the study is complete; return how often it was."""
    wait_for("completion", lambda: appliance.json("explain", study)["state"] == "complete", 60)
    settings = load(appliance.file)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    with catalogue.read() as connection:
        told = select(event.c.seq).where(event.c.kind == "study_complete", event.c.study_instance_uid == study)
        found = len(connection.execute(told).all())
    catalogue.close()
    return found


def started_after_s(told: dict[str, Any]) -> float:
    """Return the seconds from the last instance to the start of the job."""
    timings = told["outcomes"][0]["timings"]
    return float(timings["complete_s"] + timings["wait_s"])


def test_with_a_known_count_the_job_starts_at_once(pair: Pair, tmp_path: Path) -> None:
    appliance, _ = pair

    def count(ds: Dataset) -> None:
        ds.NumberOfStudyRelatedInstances = 40

    study, images = head(tmp_path, 501, count)
    sending = Sending(appliance)
    sending.send(images)
    told = started(appliance, study)
    sending.peer.release()
    assert told["complete"]["reason"] == "counted"
    assert started_after_s(told) <= 2
    assert len(jobs_of(appliance, study)) == 1


def test_a_pause_inside_an_association_splits_no_study(pair: Pair, tmp_path: Path) -> None:
    appliance, _ = pair
    study, images = head(tmp_path, 502)
    sending = Sending(appliance)
    sending.send(images[:20])
    time.sleep(PAUSE_S)
    sending.send(images[20:])
    sending.peer.release()
    told = started(appliance, study)
    assert told["complete"]["reason"] == "released"
    assert told["instances"] == 40
    assert completions(appliance, study) == 1
    assert len(jobs_of(appliance, study)) == 1


def test_what_was_acknowledged_before_an_abort_is_completed_by_the_rest(pair: Pair, tmp_path: Path) -> None:
    appliance, _ = pair
    study, images = head(tmp_path, 505)
    sending = Sending(appliance)
    sending.send(images[:25])
    sending.peer.send(pdu(ABORT))
    sending.peer.socket.close()
    again = Sending(appliance)
    again.send(images[25:])
    again.peer.release()
    told = started(appliance, study)
    assert told["instances"] == 40
    assert completions(appliance, study) == 1
    assert len(jobs_of(appliance, study)) == 1


def test_a_procedure_step_says_when_all_is_there(pair: Pair, tmp_path: Path) -> None:
    appliance, _ = pair
    study, images = head(tmp_path, 506)
    ae = AE(ae_title="SCANNER")
    modality = ae.associate(
        "127.0.0.1", appliance.port, contexts=[build_context(ModalityPerformedProcedureStep)], ae_title="CURIE"
    )
    assert modality.is_established
    step = "1.2.826.0.1.3680043.8.498.1914.506.1"
    created = Dataset()
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study
    created.ScheduledStepAttributesSequence = [scheduled]
    created.PerformedProcedureStepStatus = "IN PROGRESS"
    assert modality.send_n_create(created, ModalityPerformedProcedureStep, step)[0].Status == 0
    sending = Sending(appliance)
    sending.send(images[:30])
    ended = Dataset()
    ended.PerformedProcedureStepStatus = "COMPLETED"
    series = Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ReferencedImageSequence = [reference(ds) for ds in images]
    ended.PerformedSeriesSequence = [series]
    assert modality.send_n_set(ended, ModalityPerformedProcedureStep, step)[0].Status == 0
    modality.release()
    time.sleep(3)
    assert appliance.outcome(study) is None
    sending.send(images[30:])
    told = started(appliance, study)
    sending.peer.release()
    assert told["complete"]["reason"] == "counted"
    assert started_after_s(told) <= 2


def reference(ds: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return item


def test_the_pacs_is_asked_how_many_there_are(pair: Pair, tmp_path: Path) -> None:
    appliance, orthanc = pair
    study, images = head(tmp_path, 507)
    for ds in images:
        orthanc.post("/instances", content_of(ds))
    wait_for("the study in the PACS", lambda: len(orthanc.get("/instances")) >= 40, 20)
    sending = Sending(appliance)
    sending.send(images[:30])
    time.sleep(3)
    assert appliance.outcome(study) is None
    sending.send(images[30:])
    told = started(appliance, study)
    sending.peer.release()
    assert told["complete"]["reason"] == "counted"
    assert "PACS" in told["complete"]["evidence"]
    assert started_after_s(told) <= 2


def content_of(ds: Dataset) -> bytes:
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_a_pause_between_associations_is_learned(pair: Pair, tmp_path: Path) -> None:
    appliance, _ = pair
    for number in (503, 504):
        study, images = head(tmp_path / str(number), number)
        for part in (images[:20], images[20:]):
            sending = Sending(appliance)
            sending.send(part)
            sending.peer.release()
            if part[-1] is images[19]:
                time.sleep(PAUSE_S)
    told = started(appliance, study)
    assert told["instances"] == 40
    assert completions(appliance, study) == 1, "the second study of this source is not split"
    assert len(jobs_of(appliance, study)) == 1

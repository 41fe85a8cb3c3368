"""Results of one patient over time: silence where it is asked for, a report where nothing could be made, what replaces
what, growth since an earlier study, and every form that destinations take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select, update

from appliance.catalogue import Catalogue
from appliance.catalogue.tables import job, job_input, outbox, result
from appliance.errors import Missing
from appliance.settings import parse
from dicom_nodes.provenance_reader import provenance_of
from models.reading import Reading
from tests import phantoms
from tests.phantoms import series
from tests.workers.test_line import HEAD, SETTINGS, Line
from workers.engine_process import EngineProcess
from workers.pipeline import Inferred
from workers.reproduction import reproduce

EVERYTHING = '"SEG", "SR", "KOS", "GSPS", "SC", "PDF", "RTSTRUCT", "LABELMAP"'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    made = EngineProcess(parse(SETTINGS, Path("curie.toml")).worker, tmp_path_factory.mktemp("engine") / "over")
    yield made
    made.kill()


def line_with(catalogue: Catalogue, folder: Path, engine: EngineProcess, route: str = "", place: str = "") -> Line:
    """Return a line whose route and destination have further settings."""
    text = SETTINGS.replace('host = "127.0.0.1"\n', f'host = "127.0.0.1"\n{place}\n') + route + "\n"
    made = Line(parse(text, folder / "curie.toml"), catalogue)
    made.worker.engine = engine
    return made


def rows(line: Line, table: Any, *where: Any) -> list[Any]:
    with line.catalogue.read() as connection:
        return list(connection.execute(select(table).where(*where)).all())


def written(line: Line, role: str) -> list[Dataset]:
    """Return the results of a role, in the order in which jobs were opened."""
    query = select(result.c.path).join(job, job.c.id == result.c.job_id).where(result.c.role == role)
    with line.catalogue.read() as connection:
        paths = connection.execute(query.order_by(job.c.created_at, result.c.sop_instance_uid)).scalars().all()
    return [dcmread(line.settings.results_dir / path) for path in paths]


def summary(ds: Dataset) -> str:
    (container,) = (one for one in ds.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "C0034375")
    return str(container.ContentSequence[0].ConceptCodeSequence[0].CodeValue)


def texts(ds: Dataset) -> str:
    return " ".join(one.TextValue for one in ds.ContentSequence if one.ValueType == "TEXT")


def few() -> list[Dataset]:
    """Return too few slices of a head."""
    return series(HEAD)[:6]


class Blind:
    """An engine that finds nothing."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def read(self, *what: Any) -> Inferred:
        ran = self.engine.read(*what)
        return replace(ran, reading=Reading(tuple(one * 0 for one in ran.reading.label_maps)))


def test_what_could_not_be_run_is_told_once_and_only_where_the_route_asks(
    catalogue: Catalogue, tmp_path: Path, engine: EngineProcess
) -> None:
    line = line_with(catalogue, tmp_path, engine, "report_failure = true")
    study = line.receive(few())
    assert line.outcome(study)["outcome"] == "unsuitable"
    line.dispatch.step()
    line.worker.drain()
    (told,) = written(line, "SR")
    assert summary(told) == "111245"
    assert line.outcome(study)["reason"] in texts(told)
    assert str(told.PatientName) == "Phantom^Head"
    (sent,) = rows(line, outbox)
    assert (sent.destination, sent.state) == ("pacs", "waiting")
    line.dispatch.step()
    line.worker.drain()
    assert len(written(line, "SR")) == 1


def test_without_the_setting_nothing_is_told_and_a_result_replaces_what_was(
    catalogue: Catalogue, tmp_path: Path, engine: EngineProcess
) -> None:
    quiet = line_with(catalogue, tmp_path, engine)
    quiet.receive(few())
    quiet.dispatch.step()
    assert rows(quiet, job) == []
    line = line_with(catalogue, tmp_path, engine, "report_failure = true")
    line._sent = 1
    line.dispatch.step()
    line.worker.drain()
    (first,) = written(line, "SR")
    study = line.receive(series(HEAD)[6:])
    line.worker.drain()
    assert line.outcome(study)["outcome"] == "pending"
    told, answer = written(line, "SR")
    assert told.SOPInstanceUID == first.SOPInstanceUID
    (before,) = answer.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert before.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    states = {one.sop_instance_uid: one.state for one in rows(line, outbox)}
    assert states[first.SOPInstanceUID] == "withdrawn"
    assert states[answer.SOPInstanceUID] == "waiting"


def test_a_study_of_two_patients_is_told_to_nobody(catalogue: Catalogue, tmp_path: Path, engine: EngineProcess) -> None:
    line = line_with(catalogue, tmp_path, engine, "report_failure = true")
    images = series(HEAD)
    images[3].PatientID = "somebody-else"
    study = line.receive(images)
    line.dispatch.step()
    assert line.outcome(study)["outcome"] == "failed"
    assert rows(line, job) == []


@pytest.mark.parametrize(("setting", "sent"), [("report_negative = false", 0), ("", 1)])
def test_nothing_found_is_silent_where_the_route_says_so(
    catalogue: Catalogue, tmp_path: Path, engine: EngineProcess, setting: str, sent: int
) -> None:
    line = line_with(catalogue, tmp_path, engine, setting)
    line.worker.engine = Blind(engine)  # type: ignore[assignment]
    line.receive(series(HEAD))
    line.worker.drain()
    (made,) = rows(line, job)
    assert made.state == ("delivering" if sent else "completed"), made.reason
    assert len(rows(line, outbox)) == sent
    (told,) = written(line, "SR")
    assert summary(told) == "111241"


def test_growth_is_told_in_the_next_study_of_the_same_patient(
    catalogue: Catalogue, tmp_path: Path, engine: EngineProcess
) -> None:
    line = line_with(catalogue, tmp_path, engine)
    for n, day in ((1, "20230110"), (2, "20240110")):
        images = series(HEAD)
        for ds in images:
            ds.StudyDate = day
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(ds, keyword, f"{ds[keyword].value}.{n}")
        line.receive(images)
        line.worker.drain()
    one, two = rows(line, job)
    tracked = {f["tracking_uid"] for f in one.findings}
    assert tracked == {f["tracking_uid"] for f in two.findings}
    first, second = written(line, "SR")
    assert "on 2023-01-10 (+0.0 %)" in texts(second)
    assert "2023-01-10" not in texts(first)
    earlier = second.PertinentOtherEvidenceSequence[0]
    assert earlier.StudyInstanceUID == first.StudyInstanceUID


def test_every_form_is_made_where_a_destination_takes_it_and_refers_to_the_others(
    catalogue: Catalogue, tmp_path: Path, engine: EngineProcess
) -> None:
    line = line_with(catalogue, tmp_path, engine, place=f"results = [{EVERYTHING}]")
    line.receive(series(HEAD))
    line.worker.drain()
    (made,) = rows(line, job)
    assert made.state == "delivering", made.reason
    results = rows(line, result)
    assert {one.role for one in results} == set(EVERYTHING.replace('"', "").split(", "))
    reports = {one.variant: dcmread(line.settings.results_dir / one.path) for one in results if one.role == "SR"}
    assert set(reports) == {"binary", "labelmap"}
    for variant, report in reports.items():
        referenced = {
            item.ReferencedSOPInstanceUID
            for several in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
            for item in several.ReferencedSOPSequence
        }
        beside = {one.sop_instance_uid for one in results if one.role != "SR" and one.variant in ("", variant)}
        assert beside <= referenced
        other = {one.sop_instance_uid for one in results if one.variant not in ("", variant)}
        assert not other & referenced
    assert len(rows(line, outbox)) == len(results)


def test_what_a_newer_result_replaces_is_not_sent_any_more(
    catalogue: Catalogue, tmp_path: Path, engine: EngineProcess
) -> None:
    line = line_with(catalogue, tmp_path, engine, place='results = ["SEG", "SR", "KOS"]')
    images = series(HEAD)
    line.receive(images[:-1])
    line.worker.drain()
    first = {one.sop_instance_uid for one in rows(line, outbox)}
    with line.catalogue.write() as connection:  # one object had left already
        connection.execute(
            update(outbox).where(outbox.c.id == min(one.id for one in rows(line, outbox))).values(state="delivered")
        )
    line.receive(images[-1:])
    line.worker.drain()
    states = {one.sop_instance_uid: one.state for one in rows(line, outbox)}
    assert sorted(states[uid] for uid in first) == ["delivered"] + ["withdrawn"] * (len(first) - 1)
    assert {state for uid, state in states.items() if uid not in first} == {"waiting"}
    retraction = [ds for ds in written(line, "KOS") if ds.ConceptNameCodeSequence[0].CodeValue == "113001"]
    assert len(retraction) == 1


def rejection_note(images: list[Dataset], title: str) -> Dataset:
    """Return the Key Object Selection by which a source takes images back."""
    note = Dataset()
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID"):
        setattr(note, keyword, images[0][keyword].value)
    note.SOPClassUID, note.Modality = "1.2.840.10008.5.1.4.1.1.88.59", "KO"
    note.SOPInstanceUID, note.SeriesInstanceUID = phantoms.uid(1, 50, int(title)), phantoms.uid(1, 50)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = title, "DCM", "Rejected"
    note.ConceptNameCodeSequence = [code]
    listed, study = Dataset(), Dataset()
    listed.SeriesInstanceUID = images[0].SeriesInstanceUID
    listed.ReferencedSOPSequence = []
    for ds in images:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        listed.ReferencedSOPSequence.append(item)
    study.StudyInstanceUID, study.ReferencedSeriesSequence = images[0].StudyInstanceUID, [listed]
    note.CurrentRequestedProcedureEvidenceSequence = [study]
    return note


@pytest.mark.parametrize("title", ["113001", "113037", "113038", "113039"])
def test_a_rejection_note_withdraws_what_depends_on_the_images(
    catalogue: Catalogue, tmp_path: Path, engine: EngineProcess, title: str
) -> None:
    line = line_with(catalogue, tmp_path, engine)
    images = series(HEAD)
    study = line.receive(images)
    line.worker.drain()
    with line.catalogue.write() as connection:  # one object had left already
        connection.execute(
            update(outbox).where(outbox.c.id == min(one.id for one in rows(line, outbox))).values(state="delivered")
        )
    line.receive([rejection_note(images, title)])
    assert {one.state for one in rows(line, outbox)} == {"delivered", "withdrawn"}
    (made,) = rows(line, job)
    assert made.state == "superseded"
    assert "36 images were rejected at the source" in made.reason
    assert title in made.reason
    line.dispatch.step()
    assert line.outcome(study)["outcome"] in ("not_routed", "unsuitable")
    line.worker.drain()
    assert len(rows(line, job)) == 1


def test_a_note_that_comes_before_its_image_holds_and_any_other_title_changes_nothing(
    catalogue: Catalogue, tmp_path: Path, engine: EngineProcess
) -> None:
    line = line_with(catalogue, tmp_path, engine)
    images = series(HEAD)
    line.receive([rejection_note(images[-2:], "113037")])
    line.receive([rejection_note(images[:4], "113000")])
    line.receive(images)
    (made,) = rows(line, job)
    assert len(rows(line, job_input)) == len(images) - 2
    assert made.state == "queued"


def test_a_result_is_made_again_to_the_byte_and_its_passport_tells_how(
    catalogue: Catalogue, tmp_path: Path, engine: EngineProcess
) -> None:
    line = line_with(catalogue, tmp_path, engine)
    study = line.receive(series(HEAD))
    line.worker.drain()
    (made,) = rows(line, job)
    stored = rows(line, result)
    again = reproduce(line.settings, catalogue, stored[0].sop_instance_uid)
    assert (again.same, again.identical, again.objects) == (True, len(stored), len(stored))
    held = line.outcome(study)["passport"]
    assert len(held["inputs"]) == 36
    assert len({one["pixel_digest"] for one in held["inputs"]}) > 1
    assert (held["package_digest"], held["input_set"]) == (made.package_digest, made.input_set)
    assert held["promoted"]["kind"] == "shipped"
    told = provenance_of(line.settings.results_dir / stored[0].path)
    weights = line.worker.registry.of_digest(made.package_digest).weights_digest
    assert (told["weights"], told["digest"], told["engine"]) == (weights, made.package_digest, made.engine)
    torch = line.settings.worker.model_copy(update={"backends": ("torch",)})
    other = line.settings.model_copy(update={"worker": torch})
    elsewhere = reproduce(other, catalogue, stored[0].sop_instance_uid)
    assert (elsewhere.same, elsewhere.identical, elsewhere.engine) == (True, 0, "torch f32")
    assert min(elsewhere.dice.values()) > 0.99
    with pytest.raises(Missing, match="no result has"):
        reproduce(line.settings, catalogue, "2.25.404")


def test_an_altered_result_is_not_the_same(catalogue: Catalogue, tmp_path: Path, engine: EngineProcess) -> None:
    line = line_with(catalogue, tmp_path, engine)
    line.receive(series(HEAD))
    line.worker.drain()
    stored = rows(line, result)
    with line.catalogue.write() as connection:
        connection.execute(update(result).where(result.c.role == "SEG").values(sha256="0" * 64))
    again = reproduce(line.settings, catalogue, stored[0].sop_instance_uid)
    assert (again.same, again.identical) == (False, len(stored) - 1)

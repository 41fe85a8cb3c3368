"""A forgotten study leaves no file and no word of the patient; the record of what was done stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, update

from appliance.catalogue import Catalogue, audit, events, evidence, flow, orders, overview
from appliance.catalogue.connection import now
from appliance.catalogue.tables import instance, job, outbox, result, study
from appliance.catalogue.tables import series as series_table
from appliance.errors import Missing, SettingsError, StudyBlocked
from appliance.settings import Settings, load, parse
from appliance.training_set import folder_of
from tests.appliance.catalogue.rows import instance as image
from tests.appliance.catalogue.rows import queued_job, receive
from tests.appliance.catalogue.test_training import ONE, keep
from tests.phantoms import series
from tests.workers.test_line import HEAD, SETTINGS, Line
from workers.forgetting import forget
from workers.reproduction import reproduce

FINDING = {"name": "left", "measurements": []}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "curie.toml").write_text(f'[appliance]\ndata_dir = "{tmp_path}"\n')
    return load(tmp_path / "curie.toml")


@pytest.fixture
def line(catalogue: Catalogue, tmp_path: Path) -> Iterator[Line]:
    made = Line(parse(SETTINGS, tmp_path / "curie.toml"), catalogue)
    yield made
    made.worker.engine.kill()


@pytest.fixture
def files(settings: Settings, catalogue: Catalogue) -> list[Path]:
    """The files of study 1: an image, a result that waits, a training case; study 2 has an image too."""
    number = queued_job(catalogue, "1")
    queued_job(catalogue, "2")
    keep(catalogue, replace(ONE, study_instance_uid="1"))
    with catalogue.write() as connection:
        connection.execute(update(study).where(study.c.study_instance_uid == "1").values(accession_number="A4711"))
        connection.execute(update(series_table).values(attributes={"PatientSex": "F"}))
        done = {"state": "delivering", "findings": [FINDING], "patient_key": "patient", "study_date": "19140801"}
        connection.execute(update(job).where(job.c.id == number).values(**done))
        made = {"role": "SR", "sop_class_uid": "1", "series_instance_uid": "1", "path": "r/1.dcm", "sha256": "a",
                "bytes": 1}  # fmt: skip
        connection.execute(insert(result).values(sop_instance_uid="9", job_id=number, created_at=now(), **made))
        sent = {"destination": "pacs", "state": "waiting", "due_at": now()}
        connection.execute(insert(outbox).values(sop_instance_uid="9", job_id=number, **sent))
        paths = connection.execute(select(instance.c.path).order_by(instance.c.study_instance_uid)).scalars().all()
    found = [
        settings.spool_dir / paths[0], settings.results_dir / "r/1.dcm", folder_of(settings) / ONE.path,
        settings.spool_dir / paths[1],
    ]  # fmt: skip
    for path in found:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return found


def test_all_of_it_goes_but_the_record(settings: Settings, catalogue: Catalogue, files: list[Path]) -> None:
    left = forget(settings, catalogue, "1", "marie", "asked")
    assert [one.exists() for one in files] == [False, False, False, True]
    assert (len(left.images), len(left.results), len(left.cases)) == (1, 1, 1)
    with catalogue.write() as connection:
        told = str(overview.explain(connection, "1"))
        rows = [connection.execute(select(one)).mappings().all() for one in (study, series_table, instance, job)]
        kinds = [one["kind"] for one in events.of_study(connection, "1")]
        audit.seal(connection)
        assert audit.verify(connection).flaws == ()
    assert "A4711" not in told
    first = str([one for table in rows for one in table if one["study_instance_uid"] == "1"])
    assert all(word not in first for word in ("A4711", "PatientSex", "'patient'", "19140801", "left"))
    assert "'patient'" in str(rows[2])  # of the other study
    assert {"study_forgotten", "job_queued", "case_withdrawn"} <= set(kinds)


def test_who_was_interrupted_asks_again_and_is_told(
    settings: Settings, catalogue: Catalogue, files: list[Path]
) -> None:
    assert forget(settings, catalogue, "1", "marie", "asked").before is None
    for one in files[:3]:
        one.write_bytes(b"came back")
    before = forget(settings, catalogue, "1", "pierre", "asked again").before
    assert not any(one.exists() for one in files[:3])
    assert (before.who, before.reason) == ("marie", "asked") if before else False
    with catalogue.read() as connection:
        told = [one["detail"]["who"] for one in events.of_study(connection, "1") if one["kind"] == "study_forgotten"]
        assert told == ["marie"]
        listed = {one["study_instance_uid"]: one["forgotten"] for one in overview.studies(connection)}
        shown = {one["study_instance_uid"]: one["state"] for one in flow.studies(connection)}
        record = overview.explain(connection, "1")["forgotten"]
    assert (record["who"], listed) == ("marie", {"1": record, "2": None})
    assert shown == {"1": "forgotten", "2": "complete"}


def test_what_came_since_is_forgotten_anew(line: Line) -> None:
    images = series(HEAD)
    uid = line.receive(images)
    line.worker.drain()
    forget(line.settings, line.catalogue, uid, "marie", "asked")
    (made,) = [one["sop_instance_uid"] for one in line.outcome(uid)["results"] if one["role"] == "SR"]
    with pytest.raises(StudyBlocked, match=r"the study of this result was forgotten on \S+ by marie"):
        reproduce(line.settings, line.catalogue, made)
    with line.catalogue.write() as connection, pytest.raises(SettingsError, match=r"its study was forgotten on"):
        orders.retry(connection, rejected(connection), "marie", now())
    line.receive(images)
    line.worker.drain()
    assert reproduce(line.settings, line.catalogue, made).same
    assert forget(line.settings, line.catalogue, uid, "pierre", "again").before is None
    assert list(line.spool.files()) == []


def rejected(connection: Connection) -> str:
    """Return the one job, whose results a destination rejected meanwhile."""
    connection.execute(update(outbox).values(state="rejected"))
    return str(connection.execute(update(job).values(state="failed").returning(job.c.id)).scalar())


def test_a_result_that_waits_is_withdrawn(settings: Settings, catalogue: Catalogue, files: list[Path]) -> None:
    forget(settings, catalogue, "1", "marie", "asked")
    with catalogue.read() as connection:
        assert connection.execute(select(outbox.c.state)).scalars().all() == ["withdrawn"]


def test_what_is_in_work_is_not_forgotten(settings: Settings, catalogue: Catalogue, files: list[Path]) -> None:
    with pytest.raises(Missing, match="curie jobs cancel"):
        forget(settings, catalogue, "2", "marie", "asked")
    with catalogue.write() as connection:
        receive(connection, image(uid="3.1", study="3"))
    with pytest.raises(Missing, match="still received"):
        forget(settings, catalogue, "3", "marie", "asked")
    assert all(one.exists() for one in files)


def test_what_is_sent_again_is_taken_in_full_and_read_anew(line: Line) -> None:
    images = series(HEAD)
    for ds in images:
        ds.AccessionNumber = "A4711"
    uid = line.receive(images)
    line.worker.drain()
    before = line.outcome(uid)
    forget(line.settings, line.catalogue, uid, "marie", "asked")
    line.index(images[:3])
    with line.catalogue.read() as connection:
        told = overview.explain(connection, uid)
        assert evidence.held_of(connection, uid) == 3, "what is not here again is not counted"
    assert (told["accession_number"], told["state"], told["instances"]) == ("A4711", "receiving", 3)
    assert told["instances_by_state"]["forgotten"] == len(images) - 3
    assert line.receive(images[3:]) == uid
    line.worker.drain()
    after = line.outcome(uid)
    assert (after["state"], after["job"], after["findings"]) == ("delivering", before["job"], before["findings"])
    assert [one["sha256"] for one in after["results"]] == [one["sha256"] for one in before["results"]]
    assert after["results"]
    assert all((line.settings.results_dir / one["path"]).exists() for one in after["results"])
    with line.catalogue.read() as connection:
        kinds = [one["kind"] for one in events.of_study(connection, uid)]
        (attributes,) = connection.execute(select(series_table.c.attributes)).scalars()
        assert (kinds.count("study_forgotten"), kinds.count("forgotten_study_returned")) == (1, 1)
        assert attributes["Modality"] == "MR"
        assert "" not in connection.execute(select(instance.c.patient_key)).scalars().all()
        assert overview.find_study(connection, "A4711") == uid


def test_another_header_of_what_was_forgotten_is_read_too(line: Line) -> None:
    images = series(HEAD)
    uid = line.receive(images)
    line.worker.drain()
    forget(line.settings, line.catalogue, uid, "marie", "asked")
    for ds in images:
        ds.StudyDescription = "corrected"
    line.receive(images)
    line.worker.drain()
    assert line.outcome(uid)["state"] == "delivering"
    with line.catalogue.read() as connection:
        assert overview.explain(connection, uid)["instances_by_state"] == {
            "current": len(images),
            "forgotten": len(images),
        }

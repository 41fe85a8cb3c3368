"""A forgotten study leaves no file and no word of the patient; the record of what was done stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from appliance.catalogue import Catalogue, audit, events, overview
from appliance.catalogue.connection import now
from appliance.catalogue.tables import instance, job, outbox, result, series, study
from appliance.errors import Missing
from appliance.settings import Settings, load
from appliance.training_set import folder_of
from tests.appliance.catalogue.rows import instance as image
from tests.appliance.catalogue.rows import queued_job, receive
from tests.appliance.catalogue.test_training import ONE, keep
from workers.forgetting import forget

FINDING = {"name": "left", "measurements": []}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "curie.toml").write_text(f'[appliance]\ndata_dir = "{tmp_path}"\n')
    return load(tmp_path / "curie.toml")


@pytest.fixture
def files(settings: Settings, catalogue: Catalogue) -> list[Path]:
    """The files of study 1: an image, a result that waits, a training case; study 2 has an image too."""
    number = queued_job(catalogue, "1")
    queued_job(catalogue, "2")
    keep(catalogue, replace(ONE, study_instance_uid="1"))
    with catalogue.write() as connection:
        connection.execute(update(study).where(study.c.study_instance_uid == "1").values(accession_number="A4711"))
        connection.execute(update(series).values(attributes={"PatientSex": "F"}))
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
        rows = [connection.execute(select(one)).mappings().all() for one in (study, series, instance, job)]
        kinds = [one["kind"] for one in events.of_study(connection, "1")]
        audit.seal(connection)
        assert audit.verify(connection).flaws == ()
    assert "A4711" not in told
    first = str([one for table in rows for one in table if one["study_instance_uid"] == "1"])
    assert all(word not in first for word in ("A4711", "PatientSex", "'patient'", "19140801", "left"))
    assert "'patient'" in str(rows[2])  # of the other study
    assert {"study_forgotten", "job_queued", "case_withdrawn"} <= set(kinds)


def test_who_was_interrupted_asks_again(settings: Settings, catalogue: Catalogue, files: list[Path]) -> None:
    forget(settings, catalogue, "1", "marie", "asked")
    for one in files[:3]:
        one.write_bytes(b"came back")
    forget(settings, catalogue, "1", "marie", "asked")
    assert not any(one.exists() for one in files[:3])


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

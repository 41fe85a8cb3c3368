"""Who tried a job again or cancelled it stands in the record, once."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from appliance.catalogue import Catalogue, open_catalogue
from appliance.catalogue.tables import event
from tests.appliance.catalogue.rows import queued_job
from tests.appliance.cli.in_process import curie


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "curie.toml").write_text('[appliance]\ndata_dir = "data"\n')
    return tmp_path


@pytest.fixture
def catalogue(home: Path) -> Iterator[Catalogue]:
    opened = open_catalogue(f"sqlite:///{home}/data/curie.db", home / "data")
    yield opened
    opened.close()


def test_each_order_is_one_event_with_the_person(home: Path, catalogue: Catalogue) -> None:
    job = queued_job(catalogue, "1")
    for verb, state in (("cancel", "cancelled"), ("retry", "queued")):
        ran = curie("jobs", verb, job, "--json", cwd=home)
        assert json.loads(ran.stdout) == {"id": job, "state": state}
    with catalogue.read() as connection:
        query = select(event.c.kind, event.c.study_instance_uid, event.c.job_id, event.c.detail)
        told = connection.execute(query.where(event.c.kind.in_(("job_cancelled", "job_retried")))).all()
    who = {"who": getpass.getuser()}
    assert [tuple(one) for one in told] == [("job_cancelled", "1", job, who), ("job_retried", "1", job, who)]

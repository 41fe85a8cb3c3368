"""A passport tells how results were made, whatever became of them later."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from appliance.catalogue import Catalogue, jobs, orders
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import NewResult
from appliance.catalogue.passports import passport
from appliance.catalogue.tables import job as job_table
from appliance.catalogue.tables import outbox
from tests.appliance.catalogue.rows import queued_job


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_a_retried_delivery_changes_nothing_of_the_making(catalogue: Catalogue, ended: str) -> None:
    job, made_at = queued_job(catalogue), now() + timedelta(minutes=1)
    with catalogue.write() as connection:
        held = jobs.claim(connection, "worker", now())
        assert held is not None
        made = NewResult("2.25.1", "1.2", "2.25.9", "SEG", "seg.dcm", "ab", 1)
        record = {"engine": "torch", "timings": {}, "findings": []}
        jobs.commit_results(connection, held, [made], {"pacs": ("SEG",)}, record, made_at)
        before = passport(connection, job)
        later = made_at + timedelta(hours=1)
        connection.execute(update(outbox).values(state="rejected"))
        connection.execute(update(job_table).values(state=ended, finished_at=later))
        assert orders.retry(connection, job, "marie", later) == "delivering"
        assert connection.execute(select(outbox.c.state)).scalar() == "waiting"
        again = passport(connection, job)
    assert again["made_at"] == made_at.isoformat(timespec="milliseconds")
    assert (again["attempts"], again) == (1, before)

"""What a promoted version did here is counted from its clinical jobs alone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, update

from appliance.catalogue import Catalogue, trials
from appliance.catalogue.connection import now
from appliance.catalogue.tables import job, outbox, result
from appliance.catalogue.training_tables import correction
from tests.appliance.catalogue.rows import queued_job


def finished(catalogue: Catalogue, study: str, ml: float, **change: object) -> str:
    """Return the id of a finished job that measured one volume, delivered unless it is in shadow."""
    number = queued_job(catalogue, study)
    found = [{"name": "left", "measurements": [{"name": "volume", "value": ml, "unit": "ml"}]}]
    values: dict[str, Any] = {"state": "completed", "finished_at": now(), "findings": found, **change}
    with catalogue.write() as connection:
        connection.execute(update(job).where(job.c.id == number).values(**values))
        if not values.get("shadow"):
            deliver(connection, number, f"2.25.{study}")
    return number


def deliver(connection: Any, number: str, uid: str) -> None:
    """Write a result that a destination holds."""
    made = {"role": "SEG", "sop_class_uid": "1.2", "series_instance_uid": "1.2", "path": "a", "sha256": "b", "bytes": 1}
    connection.execute(insert(result).values(sop_instance_uid=uid, job_id=number, created_at=now(), **made))
    sent = {"destination": "pacs", "state": "committed", "due_at": now()}
    connection.execute(insert(outbox).values(sop_instance_uid=uid, job_id=number, **sent))


def test_what_a_version_measured_leaves_shadow_and_what_still_runs_out(catalogue: Catalogue) -> None:
    finished(catalogue, "1", 2.5)
    finished(catalogue, "2", 9.0, shadow=1)
    finished(catalogue, "3", 9.0, finished_at=None)
    finished(catalogue, "4", 9.0, package_version="0.9.0")
    with catalogue.read() as connection:
        assert trials.measured(connection, "brain", "1.0.0") == [("left volume", 2.5)]


def test_only_kept_corrections_of_delivered_results_count(catalogue: Catalogue) -> None:
    jobs = [finished(catalogue, str(number), 1.0) for number in range(1, 4)]
    finished(catalogue, "9", 1.0, shadow=1)
    said = {"study_instance_uid": "1", "path": "c", "received_at": now()}
    with catalogue.write() as connection:
        for uid, number, state in (("5.1", jobs[0], "kept"), ("5.2", jobs[0], "kept"), ("5.3", jobs[1], "not_kept")):
            connection.execute(insert(correction).values(sop_instance_uid=uid, job_id=number, state=state, **said))
        assert trials.sent_and_corrected(connection, "brain", "1.0.0") == (3, 1)

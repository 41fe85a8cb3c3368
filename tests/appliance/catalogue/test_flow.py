"""What stands at which step, how it went by the hour, and the times of jobs: counted from rows as they are."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from appliance.catalogue import Catalogue, flow, jobs, outbox
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import NewResult
from tests.appliance.catalogue.rows import instance, queued_job, receive


def test_events_fall_into_their_hours(catalogue: Catalogue) -> None:
    at = now()
    with catalogue.write() as connection:
        for hours in (0.01, 0.5, 1.5, 23.5, 24.5):
            moment = (at - timedelta(hours=hours)).timestamp()
            connection.execute(
                text("INSERT INTO event (at, kind, detail) VALUES (:at, 'study_complete', '{}')"), {"at": moment}
            )
    with catalogue.read() as connection:
        found = flow.by_hour(connection, ["study_complete", "job_failed"], at)
    assert found["study_complete"][-3:] == [0, 1, 2]
    assert (found["study_complete"][0], sum(found["study_complete"]), len(found["study_complete"])) == (1, 4, 24)
    assert found["job_failed"] == [0] * 24


def finish(catalogue: Catalogue) -> str:
    """Run a job to its results, one of which waits for the PACS."""
    job = queued_job(catalogue, "1.2")
    with catalogue.write() as connection:
        held = jobs.claim(connection, "worker", now())
        assert held is not None
        record = {
            "engine": "e",
            "timings": {"volume_s": 1.0, "inference_s": 2.0, "inference_cpu_s": 50.0},
            "findings": [],
        }
        result = NewResult("2.25.1", "1.2", "2.25.9", "SEG", "a", "00", 1)
        jobs.commit_results(connection, held, [result], {"pacs": ("SEG",)}, record, now())
    return job


def test_each_step_counts_what_stands_there_and_since_when(catalogue: Catalogue) -> None:
    finish(catalogue)
    queued_job(catalogue, "1.3")
    with catalogue.write() as connection:
        receive(connection, instance(uid="1.4.1", study="1.4"))
    with catalogue.read() as connection:
        found = flow.standing(connection)
    assert {step: number for step, (number, _) in found.items()} == {
        "receiving": 1, "complete": 0, "queued": 1, "running": 0, "delivering": 1,
    }  # fmt: skip
    assert all((since is not None) == bool(number) for number, since in found.values())


def test_times_are_of_what_follows_one_another_alone(catalogue: Catalogue) -> None:
    finish(catalogue)
    with catalogue.read() as connection:
        (found,) = flow.times(connection, now() - timedelta(hours=1))
    assert found["computing"] == pytest.approx(3.0)  # not the processor time beside it
    assert "delivering" not in found
    with catalogue.write() as connection:
        later = (now() + timedelta(seconds=10)).timestamp()
        connection.execute(text("UPDATE outbox SET state = 'delivered', delivered_at = :at"), {"at": later})
    with catalogue.read() as connection:
        (found,) = flow.times(connection, now() - timedelta(hours=1))
        assert flow.times(connection, now() + timedelta(hours=1)) == []
    assert found["delivering"] == pytest.approx(7.0, abs=1)
    assert found["total"] >= 9


def test_destinations_say_what_waits_longest(catalogue: Catalogue) -> None:
    finish(catalogue)
    with catalogue.write() as connection:
        connection.execute(text("UPDATE outbox SET tries = 3, answer = 'it does not answer'"))
    with catalogue.read() as connection:
        found = flow.destinations(connection)
        assert outbox.counts(connection)["waiting"] == 1
    assert (found["pacs"]["waiting"], found["pacs"]["tries"]) == (1, 3)
    assert found["pacs"]["answer"] == "it does not answer"


def test_rejected_parcels_name_their_study(catalogue: Catalogue) -> None:
    job = finish(catalogue)
    with catalogue.write() as connection:
        connection.execute(text("UPDATE outbox SET state = 'rejected', answer = '0xA900'"))
    with catalogue.read() as connection:
        (found,) = flow.rejected(connection)
    assert (found["job_id"], found["study_instance_uid"], found["answer"]) == (job, "1.2", "0xA900")


def test_the_image_of_a_study_is_the_newest_that_is_still_there(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        for n in range(3):
            received_at = now() + timedelta(seconds=n)
            receive(connection, instance(uid=f"1.{n}", study="1", path=f"file-{n}", received_at=received_at))
        connection.execute(text("UPDATE instance SET file_removed = 1 WHERE path = 'file-2'"))
    with catalogue.read() as connection:
        assert flow.image_of(connection, "1") == "file-1"
        assert flow.image_of(connection, "2") is None

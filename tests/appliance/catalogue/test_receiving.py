"""Associations, studies and retention in the catalogue."""

from __future__ import annotations

from datetime import timedelta

from appliance.catalogue import Catalogue, jobs, outbox, receiving, routing
from appliance.catalogue.connection import now
from tests.appliance.catalogue.rows import complete_and_route, instance, queued_job, receive
from tests.appliance.catalogue.test_jobs import claim, commit


def test_facts_of_a_study_hold_its_associations(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receiving.open_association(connection, "a", "SCANNER", "10.0.0.1", now(), 20)
        receive(connection, instance())
        receiving.link_association(connection, "1", "a")
        receiving.link_association(connection, "1", "a")
    with catalogue.read() as connection:
        (fact,) = receiving.receiving_studies(connection)["1"].associations
    assert fact.ended_at is None
    with catalogue.write() as connection:
        receiving.end_association(connection, "a", aborted=True, now=now())
        (fact,) = receiving.receiving_studies(connection)["1"].associations
    assert fact.aborted


def test_a_restarted_receiver_ends_what_was_open(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receiving.open_association(connection, "a", "SCANNER", "10.0.0.1", now(), 20)
        assert receiving.end_orphaned_associations(connection, now()) == 1
        assert receiving.end_orphaned_associations(connection, now()) == 0


def test_a_study_that_grew_is_not_completed_on_old_facts(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        old = receiving.receiving_studies(connection)["1"]
        receive(connection, instance("1.2", received_at=now() + timedelta(seconds=1)))
        assert not receiving.complete_study(connection, "1", "released", old.last_received_at, now())
        assert "1" in receiving.receiving_studies(connection)


def test_two_patients_in_one_study_are_a_problem(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        receive(connection, instance("1.2", patient_key="another"))
        assert "2 patients" in routing.study_summary(connection, "1").problem


def test_conflicting_pixels_are_a_problem_and_end_the_waiting_job(catalogue: Catalogue) -> None:
    job = queued_job(catalogue)
    with catalogue.write() as connection:
        other = instance("1.1", pixel_digest="other", path="ab/other.dcm")
        receiving.add_instance(connection, other, 2, "conflict")
        receiving.touch_study(connection, other)
        assert "other pixels" in routing.study_summary(connection, "1").problem
        complete_and_route(connection)
    with catalogue.read() as connection:
        assert jobs.due_count(connection, now()) == 0
        from appliance.catalogue import overview

        assert overview.job_record(connection, job)["state"] == "failed"


def test_retention_spares_what_a_job_or_a_delivery_needs(catalogue: Catalogue) -> None:
    soon = now() + timedelta(days=1)

    def removable() -> int:
        with catalogue.read() as connection:
            return len(receiving.removable_files(connection, soon))

    with catalogue.write() as connection:
        receive(connection, instance("2.1", study="2"))
    assert removable() == 0, "the study is still being received"
    job = queued_job(catalogue)
    assert removable() == 0, "the job is queued"
    held = claim(catalogue)
    assert held is not None
    assert removable() == 0, "the job is running"
    commit(catalogue, held)
    assert removable() == 0, "the result waits"
    with catalogue.write() as connection:
        (parcel,) = outbox.due(connection, now())
        outbox.delivered(connection, parcel, "0x0000", now(), now())
        assert outbox.complete_jobs(connection, frozenset(), now()) == [job]
    assert removable() == 1
    with catalogue.read() as connection:
        assert receiving.removable_files(connection, now() - timedelta(days=30)) == []
        ((identity, _),) = receiving.removable_files(connection, soon)
    with catalogue.write() as connection:
        receiving.mark_removed(connection, [identity])
    assert removable() == 0

"""Associations, studies and retention in the catalogue."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appliance.catalogue import Catalogue, evidence, jobs, outbox, receiving, retention, routing, studies
from appliance.catalogue.connection import now
from tests.appliance.catalogue.rows import complete_and_route, instance, queued_job, receive
from tests.appliance.catalogue.test_jobs import claim, commit


def test_facts_of_a_study_hold_its_associations(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receiving.open_association(connection, "a", "SCANNER", "10.0.0.1", now(), 20)
        receive(connection, instance())
        studies.link_association(connection, "1", "a")
        studies.link_association(connection, "1", "a")
    with catalogue.read() as connection:
        (fact,) = evidence.receiving_studies(connection, now())["1"].associations
    assert fact.ended_at is None
    with catalogue.write() as connection:
        receiving.end_association(connection, "a", aborted=True, now=now())
        (fact,) = evidence.receiving_studies(connection, now())["1"].associations
    assert fact.aborted


def test_an_association_told_twice_is_one_and_its_lease_moves_until_it_ends(catalogue: Catalogue) -> None:
    def lease_s() -> float:
        (fact,) = evidence.receiving_studies(connection, now())["1"].associations
        return (fact.lease_until - start).total_seconds()

    start = now()
    with catalogue.write() as connection:
        receive(connection, instance())
        for at in (0, 10):
            receiving.open_association(connection, "a", "SCANNER", "10.0.0.1", start + timedelta(seconds=at), 20)
        studies.link_association(connection, "1", "a")
        assert lease_s() == pytest.approx(30)
        receiving.renew_associations(connection, ["a", "unknown"], start + timedelta(seconds=15), 20)
        assert lease_s() == pytest.approx(35)
        receiving.end_association(connection, "a", aborted=False, now=start)
        receiving.renew_associations(connection, ["a"], start + timedelta(seconds=99), 20)
        assert lease_s() == pytest.approx(35)


def test_a_study_that_grew_is_not_completed_on_old_facts(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        old = evidence.receiving_studies(connection, now())["1"]
        receive(connection, instance("1.2", received_at=now() + timedelta(seconds=1)))
        assert not evidence.complete_study(connection, "1", "released", old.last_received_at, now())
        assert "1" in evidence.receiving_studies(connection, now())


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
        studies.grow(connection, [other])
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
            return len(retention.removable_files(connection, soon))

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
        assert retention.removable_files(connection, now() - timedelta(days=30)) == []
        ((identity, _),) = retention.removable_files(connection, soon)
    with catalogue.write() as connection:
        retention.mark_removed(connection, [identity])
    assert removable() == 0

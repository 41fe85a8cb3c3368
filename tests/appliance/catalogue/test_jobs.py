"""Claim, lease, fencing, one commit: what makes a job run exactly once whatever dies."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.catalogue import Catalogue, jobs, open_catalogue, orders, outbox, overview
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import Claim, Fenced, NewResult
from appliance.errors import Missing, SettingsError
from tests.appliance.catalogue.rows import PACKAGE, complete_and_route, instance, queued_job, receive

LATER = timedelta(seconds=jobs.LEASE_S + 1)
RECORD = {"engine": "e", "timings": {}, "findings": []}


def result(uid: str = "2.25.1", role: str = "SEG") -> NewResult:
    return NewResult(uid, "1.2", "2.25.9", role, f"a/{uid}.dcm", "00", 1)


def claim(catalogue: Catalogue, after: timedelta = timedelta()) -> Claim | None:
    with catalogue.write() as connection:
        return jobs.claim(connection, "worker", now() + after)


def commit(catalogue: Catalogue, held: Claim, *results: NewResult) -> None:
    with catalogue.write() as connection:
        jobs.commit_results(connection, held, results or (result(),), {"pacs": ("SEG", "SR")}, RECORD, now())


def state(catalogue: Catalogue, job: str) -> str:
    with catalogue.read() as connection:
        return str(overview.job_record(connection, job)["state"])


def test_a_job_is_claimed_once(catalogue: Catalogue) -> None:
    job = queued_job(catalogue)
    held = claim(catalogue)
    assert held is not None
    assert (held.id, held.token, held.attempts) == (job, 1, 1)
    assert claim(catalogue) is None


def test_many_claimants_share_the_jobs_without_overlap(tmp_path: Path, catalogue: Catalogue) -> None:
    wanted = {queued_job(catalogue, study=f"1.{n}") for n in range(12)}
    got: list[str] = []
    barrier = Barrier(4)

    def work() -> None:
        mine = open_catalogue(catalogue.url, tmp_path)
        barrier.wait()
        while (held := claim(mine)) is not None:
            got.append(held.id)
        mine.close()

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(wanted)


def test_urgent_goes_before_routine(catalogue: Catalogue) -> None:
    queued_job(catalogue, "1")
    urgent = queued_job(catalogue, "2", replace(PACKAGE, priority=0))
    held = claim(catalogue)
    assert held is not None
    assert held.id == urgent


def test_an_expired_lease_is_claimed_again_and_the_first_holder_is_fenced(catalogue: Catalogue) -> None:
    job = queued_job(catalogue)
    zombie = claim(catalogue)
    second = claim(catalogue, LATER)
    assert zombie is not None
    assert second is not None
    assert second.token == zombie.token + 1
    with pytest.raises(Fenced):
        commit(catalogue, zombie, result("2.25.666"))
    with catalogue.write() as connection:
        assert not jobs.heartbeat(connection, zombie, now())
    commit(catalogue, second)
    assert state(catalogue, job) == "delivering"
    with catalogue.read() as connection:
        assert [one.sop_instance_uid for one in jobs.results_of(connection, job)] == ["2.25.1"]


def test_a_heartbeat_keeps_the_job(catalogue: Catalogue) -> None:
    queued_job(catalogue)
    held = claim(catalogue)
    assert held is not None
    with catalogue.write() as connection:
        assert jobs.heartbeat(connection, held, now() + timedelta(seconds=20))
    assert claim(catalogue, LATER) is None


def test_job_results_and_outbox_are_written_together_or_not_at_all(catalogue: Catalogue) -> None:
    job = queued_job(catalogue)
    held = claim(catalogue)
    assert held is not None
    with pytest.raises(Exception, match=r"UNIQUE|unique"):
        commit(catalogue, held, result("2.25.1"), result("2.25.1"))
    assert state(catalogue, job) == "running"
    with catalogue.read() as connection:
        assert outbox.counts(connection)["waiting"] == 0
    commit(catalogue, held, result("2.25.1"), result("2.25.2", "SR"), result("2.25.3", "KOS"))
    with catalogue.read() as connection:
        assert outbox.counts(connection)["waiting"] == 2, "the destination takes SEG and SR, not KOS"


def test_a_worker_that_dies_three_times_fails_the_job_and_retry_revives_it(catalogue: Catalogue) -> None:
    job = queued_job(catalogue)
    for death in range(jobs.MAX_ATTEMPTS):
        assert claim(catalogue, LATER * death) is not None
    assert claim(catalogue, LATER * 4) is None
    with catalogue.write() as connection:
        assert jobs.any_exhausted(connection, now() + LATER * 4)
        assert jobs.fail_exhausted(connection, now() + LATER * 4) == [job]
    assert state(catalogue, job) == "failed"
    with catalogue.write() as connection:
        assert orders.retry(connection, job, "marie", now()) == "queued"
    assert claim(catalogue) is not None


def test_errors_put_a_job_back_and_fail_it_at_the_third(catalogue: Catalogue) -> None:
    job = queued_job(catalogue)
    states = []
    for _ in range(jobs.MAX_ERRORS):
        held = claim(catalogue)
        assert held is not None
        with catalogue.write() as connection:
            states.append(jobs.put_back(connection, held, "out of memory", now(), counts=True))
    assert states == ["queued", "queued", "failed"]
    with catalogue.read() as connection:
        record = overview.job_record(connection, job)
    assert "out of memory" in record["reason"]
    assert [e["cause"] for e in record["events"] if e["event"] == "job_put_back"] == ["out of memory"] * 3


def test_a_stopped_worker_is_not_to_blame(catalogue: Catalogue) -> None:
    queued_job(catalogue)
    for _ in range(jobs.MAX_ATTEMPTS + jobs.MAX_ERRORS):
        held = claim(catalogue)
        assert held is not None
        with catalogue.write() as connection:
            assert jobs.put_back(connection, held, "stopped", now(), counts=False) == "queued"


def test_cancelling_a_running_job_fences_its_worker(catalogue: Catalogue) -> None:
    job = queued_job(catalogue)
    held = claim(catalogue)
    assert held is not None
    with catalogue.write() as connection:
        orders.cancel(connection, job, "marie", now())
    with pytest.raises(Fenced):
        commit(catalogue, held)
    with catalogue.write() as connection, pytest.raises(SettingsError, match="cancelled"):
        orders.cancel(connection, job, "marie", now())


def test_an_unknown_job_says_where_to_look(catalogue: Catalogue) -> None:
    with catalogue.write() as connection, pytest.raises(Missing, match="jobs list"):
        orders.cancel(connection, "nope", "marie", now())


def test_a_late_image_opens_a_new_input_set_that_supersedes(catalogue: Catalogue) -> None:
    first = queued_job(catalogue)
    held = claim(catalogue)
    assert held is not None
    commit(catalogue, held)
    with catalogue.write() as connection:
        receive(connection, instance("1.2"))
        second = complete_and_route(connection)
    assert second not in (None, first)
    assert state(catalogue, first) == "delivering", "the first result stands until the second is made"
    again = claim(catalogue)
    assert again is not None
    assert again.supersedes == first
    commit(catalogue, again, result("2.25.5"))
    assert state(catalogue, first) == "superseded"


def test_a_late_image_ends_a_job_that_has_no_result_yet(catalogue: Catalogue) -> None:
    first = queued_job(catalogue)
    held = claim(catalogue)
    with catalogue.write() as connection:
        receive(connection, instance("1.2"))
        complete_and_route(connection)
    assert state(catalogue, first) == "superseded"
    assert held is not None
    with pytest.raises(Fenced):
        commit(catalogue, held)


def test_routing_the_same_study_again_opens_no_second_job(catalogue: Catalogue) -> None:
    queued_job(catalogue)
    with catalogue.write() as connection:
        assert complete_and_route(connection) is None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["claim", "commit", "stale commit", "die", "error", "cancel", "retry"]), max_size=14))
def test_whatever_happens_there_is_at_most_one_result_set(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("job")
    catalogue = open_catalogue(f"sqlite:///{folder}/c.db", folder)
    job = queued_job(catalogue)
    held: list[Claim] = []
    elapsed = timedelta()
    committed = 0
    for step in steps:
        with catalogue.write() as connection:
            try:
                if step == "claim" and (got := jobs.claim(connection, "w", now() + elapsed)):
                    held.append(got)
                elif step in ("commit", "stale commit") and held:
                    one = held[-1] if step == "commit" else held[0]
                    jobs.commit_results(connection, one, [result()], {"pacs": ("SEG",)}, RECORD, now())
                    committed += 1
                elif step == "error" and held:
                    jobs.put_back(connection, held[-1], "x", now(), counts=True)
                elif step == "cancel":
                    orders.cancel(connection, job, "marie", now())
                elif step == "retry":
                    orders.retry(connection, job, "marie", now())
            except (Fenced, SettingsError):
                pass
        elapsed += LATER if step == "die" else timedelta()
    assert committed <= 1
    with catalogue.read() as connection:
        assert len(jobs.results_of(connection, job)) == committed
    catalogue.close()

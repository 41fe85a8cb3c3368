"""A job that ran in shadow answers a route without running again, and a withdrawn version reads nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from appliance.catalogue import Catalogue, adoption, comparisons, orders, outbox, overview, routing
from appliance.catalogue.connection import now
from appliance.catalogue.tables import job, study
from appliance.errors import SettingsError
from appliance.package_life import VersionRow
from appliance.routing import RouteDecision
from tests.appliance.catalogue.rows import PACKAGE, complete_and_route, instance, queued_job, receive
from tests.appliance.catalogue.test_jobs import claim, commit, result, state

ACCEPTED = {"pacs": ("SR",), "archive": ("SEG", "SR")}
ROUTED = replace(PACKAGE, accepted=ACCEPTED)
SHADOW = replace(PACKAGE, destinations=(), priority=19, shadow=True)
NEWER = replace(SHADOW, version="2.0.0", digest="newer")


def shadow_job(catalogue: Catalogue, package: routing.RoutedPackage = SHADOW) -> str:
    """Return the id of a shadow job on study 1 as it is now."""
    with catalogue.write() as connection:
        summary = routing.study_summary(connection, "1")
        what = RouteDecision("job", "", (("image", "1.9"),))
        return routing.open_shadow(connection, summary, package, what, now())[0]


def route(catalogue: Catalogue, package: routing.RoutedPackage = ROUTED) -> str | None:
    with catalogue.write() as connection:
        return complete_and_route(connection, "1", package)


def run(catalogue: Catalogue, *uids: str) -> None:
    held = claim(catalogue)
    assert held is not None
    commit(catalogue, held, *(result(uid, role) for uid, role in zip(uids, ("SEG", "SR"), strict=True)))


def waiting(catalogue: Catalogue) -> list[tuple[str, str]]:
    with catalogue.read() as connection:
        return [(one.sop_instance_uid, one.destination) for one in outbox.due(connection, now())]


def row_of(catalogue: Catalogue, id: str) -> Any:
    with catalogue.read() as connection:
        return connection.execute(select(job).where(job.c.id == id)).one()


@pytest.fixture
def shadowed(catalogue: Catalogue) -> str:
    """A shadow job on study 1, which no route has decided about."""
    with catalogue.write() as connection:
        receive(connection, instance())
    return shadow_job(catalogue)


def test_what_a_finished_shadow_made_is_sent_once_a_route_asks_for_it(catalogue: Catalogue, shadowed: str) -> None:
    run(catalogue, "2.25.1", "2.25.2")
    assert waiting(catalogue) == []
    assert route(catalogue) is None
    assert waiting(catalogue) == [("2.25.2", "pacs")]
    found = row_of(catalogue, shadowed)
    assert (found.state, found.shadow, found.priority, found.finished_at) == ("delivering", 0, 9, None)


@pytest.mark.parametrize("ended", ["failed", "cancelled", "superseded", "running", "unsuitable"])
def test_a_shadow_without_an_answer_is_queued_anew(catalogue: Catalogue, shadowed: str, ended: str) -> None:
    with catalogue.write() as connection:
        connection.execute(update(job).values(state=ended, attempts=3, errors=3, token=7))
    assert route(catalogue) is None
    held = claim(catalogue)
    assert held is not None
    assert (held.id, held.shadow, held.token, held.attempts) == (shadowed, 0, 9, 1)


def test_a_shadow_that_waits_runs_for_the_route(catalogue: Catalogue, shadowed: str) -> None:
    route(catalogue)
    held = claim(catalogue)
    assert held is not None
    assert (held.id, held.shadow) == (shadowed, 0)


def test_an_adopted_job_supersedes_what_the_route_had_before(catalogue: Catalogue) -> None:
    old = queued_job(catalogue)
    run(catalogue, "2.25.1", "2.25.2")
    with catalogue.write() as connection:
        receive(connection, instance("1.2"))
    new = shadow_job(catalogue)
    run(catalogue, "2.25.3", "2.25.4")
    route(catalogue)
    assert row_of(catalogue, new).supersedes == old
    assert state(catalogue, old) == "superseded"
    assert state(catalogue, new) == "delivering"


def test_an_adopted_job_that_is_outdated_sends_nothing(catalogue: Catalogue, shadowed: str) -> None:
    route(catalogue)
    with catalogue.write() as connection:
        receive(connection, instance("1.2"))
    route(catalogue)
    assert state(catalogue, shadowed) == "superseded"


def test_a_shadow_whose_images_are_outdated_does_not_run(catalogue: Catalogue, shadowed: str) -> None:
    route(catalogue, replace(ROUTED, version="2.0.0", digest="newer"))
    assert state(catalogue, shadowed) == "queued"
    with catalogue.write() as connection:
        receive(connection, instance("1.2"))
    route(catalogue, replace(ROUTED, version="2.0.0", digest="newer"))
    assert state(catalogue, shadowed) == "superseded"
    with catalogue.read() as connection:
        assert len(overview.explain(connection, "1")["outcomes"]) == 2, "the route's jobs, and no shadow"


def test_what_runs_in_shadow_at_the_commit_goes_nowhere(catalogue: Catalogue) -> None:
    queued_job(catalogue)
    held = claim(catalogue)
    assert held is not None
    with catalogue.write() as connection:
        connection.execute(update(job).values(shadow=1))
    commit(catalogue, held)
    assert waiting(catalogue) == []
    assert state(catalogue, held.id) == "completed"


def test_a_further_destination_gets_what_is_finished(catalogue: Catalogue) -> None:
    job_id = queued_job(catalogue, package=ROUTED)
    run(catalogue, "2.25.1", "2.25.2")
    with catalogue.write() as connection:
        connection.execute(outbox.outbox.update().values(state="delivered"))
        assert outbox.complete_jobs(connection, frozenset(), now()) == [job_id]
    route(catalogue, replace(ROUTED, destinations=("pacs", "archive")))
    assert waiting(catalogue) == [("2.25.1", "archive"), ("2.25.2", "archive")]
    assert state(catalogue, job_id) == "delivering"


def test_images_that_are_current_again_are_read_where_they_never_were(catalogue: Catalogue) -> None:
    first = queued_job(catalogue)
    with catalogue.write() as connection:
        connection.execute(update(job).values(state="superseded"))
    route(catalogue)
    assert state(catalogue, first) == "queued"


def version(digest: str = "digest") -> VersionRow:
    return VersionRow("brain", "1.0.0", digest, "", "retired", now(), now())


@pytest.mark.parametrize("runs", [False, True])
def test_a_withdrawn_version_reads_nothing_more_and_its_studies_are_routed_anew(
    catalogue: Catalogue, *, runs: bool
) -> None:
    job_id = queued_job(catalogue)
    held = claim(catalogue) if runs else None
    with catalogue.write() as connection:
        adoption.withdraw_version(connection, version("other"), now())
        assert routing.studies_to_route(connection) == []
        adoption.withdraw_version(connection, version(), now())
        assert routing.studies_to_route(connection) == ["1"]
    assert state(catalogue, job_id) == "superseded"
    if held:
        with pytest.raises(adoption.jobs.Fenced):
            commit(catalogue, held)
    older = route(catalogue, replace(ROUTED, version="0.9.0", digest="older"))
    assert older is not None
    assert state(catalogue, older) == "queued"


def test_a_version_out_of_shadow_ends_its_jobs_and_routes_nothing(catalogue: Catalogue, shadowed: str) -> None:
    with catalogue.write() as connection:
        connection.execute(update(study).values(state="complete", routed=1))
        adoption.withdraw_version(connection, version(), now())
        assert routing.studies_to_route(connection) == []
    assert state(catalogue, shadowed) == "superseded"


def failed(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        connection.execute(update(job).values(state="failed"))


def superseded_live(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        connection.execute(update(job).values(state="superseded", shadow=0))


def failed_live(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        connection.execute(update(job).values(state="failed", shadow=0))


def read_by_it(catalogue: Catalogue) -> None:
    run(catalogue, "2.25.1", "2.25.2")


@pytest.mark.parametrize(
    ("before", "found", "after"),
    [
        (failed, ("failed", False), ("queued", 1)),
        (superseded_live, ("superseded", False), ("queued", 1)),
        (failed_live, ("failed", True), ("failed", 0)),
        (read_by_it, ("completed", False), ("completed", 1)),
    ],
)
def test_a_replay_runs_again_what_has_no_answer(
    catalogue: Catalogue,
    shadowed: str,
    before: Callable[[Catalogue], None],
    found: tuple[str, bool],
    after: tuple[str, int],
) -> None:
    before(catalogue)
    with catalogue.write() as connection:
        assert adoption.replay(connection, shadowed, now()) == found
    row = row_of(catalogue, shadowed)
    assert (row.state, row.shadow) == after


def test_only_answers_are_compared_and_what_a_dead_worker_left_is_found(catalogue: Catalogue, shadowed: str) -> None:
    other = shadow_job(catalogue, NEWER)
    run(catalogue, "2.25.1", "2.25.2")
    with catalogue.write() as connection:
        connection.execute(update(job).where(job.c.id == other).values(state="superseded"))
        assert comparisons.uncompared(connection, shadowed) == [], "it never ran"
        assert comparisons.left(connection) == []
        connection.execute(update(job).where(job.c.id == other).values(state="queued"))
    run(catalogue, "2.25.3", "2.25.4")
    with catalogue.write() as connection:
        (pair,) = comparisons.uncompared(connection, shadowed)
        assert comparisons.left(connection) == [min(shadowed, other)]
        comparisons.keep(connection, pair, {}, now())
        assert comparisons.left(connection) == []


def test_a_superseded_job_is_not_retried_by_a_person(catalogue: Catalogue, shadowed: str) -> None:
    with catalogue.write() as connection:
        connection.execute(update(job).values(state="superseded"))
        with pytest.raises(SettingsError, match="superseded"):
            orders.retry(connection, shadowed, "marie", now())

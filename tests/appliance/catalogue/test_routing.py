"""What several routes, late images and contradictions do to jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.catalogue import Catalogue, evidence, orders, outbox, overview, routing
from appliance.catalogue.connection import now
from appliance.errors import SettingsError
from appliance.routing import RouteDecision
from tests.appliance.catalogue.rows import PACKAGE, complete_and_route, instance, queued_job, receive
from tests.appliance.catalogue.test_jobs import claim, commit, state


def decide(catalogue: Catalogue, **series_of_route: str) -> dict[str, str | None]:
    """Complete study 1 and give a series to each route; returns the new jobs."""
    with catalogue.write() as connection:
        facts = evidence.receiving_studies(connection, now()).get("1")
        if facts:
            evidence.complete_study(connection, "1", "released", facts.last_received_at, now())
        summary = routing.study_summary(connection, "1")
        new = {
            route: routing.record_decision(
                connection,
                summary,
                replace(PACKAGE, route=route),
                RouteDecision("job", "", (("image", series),)),
                now(),
            )
            for route, series in series_of_route.items()
        }
        routing.mark_routed(connection, "1", now())
    return new


def test_two_routes_may_give_two_series_to_one_package(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1", series="1.9"))
        receive(connection, instance("1.2", series="1.8"))
    new = decide(catalogue, t1="1.9", t2="1.8")
    assert new["t1"] != new["t2"]
    assert [state(catalogue, str(job)) for job in new.values()] == ["queued", "queued"]


def test_two_routes_that_share_a_job_share_the_next(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
    first = decide(catalogue, a="1.9", b="1.9")
    assert first["b"] is None
    with catalogue.write() as connection:
        receive(connection, instance("1.2"))
    second = decide(catalogue, a="1.9", b="1.9")
    assert state(catalogue, str(first["a"])) == "superseded"
    assert state(catalogue, str(second["a"])) == "queued"


def test_what_waits_of_a_blocked_study_is_not_sent_and_not_retried(catalogue: Catalogue) -> None:
    job = queued_job(catalogue)
    held = claim(catalogue)
    assert held is not None
    commit(catalogue, held)
    with catalogue.write() as connection:
        receive(connection, instance("1.2", patient_key="another"))
        complete_and_route(connection)
        assert outbox.counts(connection)["waiting"] == 0
        assert overview.job_record(connection, job)["state"] == "failed"
        with pytest.raises(SettingsError, match="2 patients"):
            orders.retry(connection, job, "marie", now())

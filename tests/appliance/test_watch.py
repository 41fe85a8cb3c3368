"""The facts are what catalogue, disk and dispatch say; what is slow to find out is looked at now and then."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from appliance import watch
from appliance.alarms import Facts
from appliance.catalogue import Catalogue, events, gauges, jobs, orders, outbox, processes
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import NewResult
from appliance.catalogue.tables import job, result
from appliance.catalogue.tables import outbox as outbox_table
from appliance.neighbours import Check
from appliance.objective import LEAST
from appliance.settings import Settings, parse
from appliance.watch import Watch, alarms_now, facts
from tests.appliance.catalogue.rows import queued_job
from tests.appliance.catalogue.test_trials import finished

TEXT = """
[appliance]
data_dir = "."
[[routes]]
name = "route"
package = "brain"
objective_s = 5
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse(TEXT, tmp_path / "curie.toml")


def seen(settings: Settings, catalogue: Catalogue, at: datetime | None = None) -> Facts:
    with catalogue.read() as connection:
        return facts(settings, connection, at or now())


def changed(catalogue: Catalogue, table: Any, **values: Any) -> None:
    with catalogue.write() as connection:
        connection.execute(update(table).values(**values))


def with_result(catalogue: Catalogue) -> str:
    """Return a job one result of which waits for the PACS."""
    number = queued_job(catalogue, "1.2")
    with catalogue.write() as connection:
        held = jobs.claim(connection, "worker", now())
        assert held is not None
        made = NewResult("2.25.1", "1.2", "2.25.9", "SEG", "a", "00", 1)
        record = {"engine": "e", "timings": {}, "findings": []}
        jobs.commit_results(connection, held, [made], {"pacs": ("SEG",)}, record, now())
    return number


def test_a_job_waits_since_it_might_be_taken_and_one_of_a_shadow_does_not_count(
    settings: Settings, catalogue: Catalogue
) -> None:
    queued_job(catalogue, "1.1")
    since = now() - timedelta(minutes=40)
    changed(catalogue, job, created_at=since - timedelta(days=1), due_at=since)
    number, first = seen(settings, catalogue).standing["queued"]
    assert (number, first) == (1, since)
    changed(catalogue, job, shadow=1)
    assert seen(settings, catalogue).standing["queued"] == (0, None)


def test_a_result_waits_since_it_was_written(settings: Settings, catalogue: Catalogue) -> None:
    with_result(catalogue)
    since = now() - timedelta(minutes=20)
    changed(catalogue, job, created_at=since - timedelta(days=1))
    changed(catalogue, result, created_at=since)
    assert seen(settings, catalogue).waiting == {"pacs": (1, since)}


def test_what_failed_or_was_rejected_counts_for_a_day_or_until_it_is_tried_again(
    settings: Settings, catalogue: Catalogue
) -> None:
    number = with_result(catalogue)
    with catalogue.write() as connection:
        (parcel,) = outbox.due(connection, now())
        outbox.rejected(connection, parcel, "0xA900", now())
        events.record(connection, "trial_fell_back", package="brain", version="1.0.1", reason="worse")
        events.record(connection, "instance_conflicted", study="1.2", revision=2)
    found = seen(settings, catalogue)
    assert found.conflicting == 1
    assert (found.rejected, found.failed, found.fell_back) == ({"pacs": 1}, {"brain": 1}, ("brain@1.0.1",))
    late = seen(settings, catalogue, now() + timedelta(days=1))
    assert (late.rejected, late.failed, late.fell_back, late.conflicting) == ({}, {}, (), 0)
    with catalogue.write() as connection:
        orders.retry(connection, number, "marie", now())
    found = seen(settings, catalogue)
    assert (found.rejected, found.failed) == ({}, {})


def test_the_phantom_of_a_rehearsal_is_neither_trouble_nor_turnaround(settings: Settings, catalogue: Catalogue) -> None:
    for n in range(2):
        number = finished(catalogue, f"7.{n}", 9.0, started_at=now())
        with catalogue.write() as connection:
            events.record(connection, "results_written", job=number)
    with_result(catalogue)
    with catalogue.write() as connection:
        (parcel,) = outbox.due(connection, now(), destination="pacs")[-1:]
        outbox.rejected(connection, parcel, "0xA900", now())
        assert gauges.failed(connection, now() - timedelta(days=1)) == {"brain": 1}
        before = len(gauges.turnarounds(connection, now() - timedelta(days=1)))
        for study in ("1.2", "7.0"):
            events.record(connection, gauges.REHEARSAL, study=study)
        since = now() - timedelta(days=1)
        assert (gauges.failed(connection, since), gauges.rejected(connection, since)) == ({}, {})
        assert len(gauges.turnarounds(connection, since)) == before - 1


def test_a_folder_that_is_away_is_said_and_breaks_nothing(settings: Settings, catalogue: Catalogue) -> None:
    away = settings.model_copy(
        update={"appliance": settings.appliance.model_copy(update={"data_dir": Path("/no/such/folder")})}
    )
    assert seen(away, catalogue).free_gb is None


def test_what_dispatch_found_reaches_everybody_by_its_heartbeat(
    settings: Settings, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def check(given: Settings) -> list[Check]:
        asked.append(given)
        return [Check("certificate a.crt", False, "2 days left", "Renew it"), Check("certificate b.crt", True, "fine")]

    monkeypatch.setattr(watch, "check_tls", check)
    for n in range(LEAST):
        number = finished(catalogue, f"1.{n}", 9.0, started_at=now())
        with catalogue.write() as connection:
            events.record(connection, "results_written", job=number)
    changed(catalogue, outbox_table, delivered_at=now() + timedelta(seconds=60))
    own = Watch(settings)
    for _ in range(2):
        own.look(catalogue)
    assert len(asked) == 1  # not again before an hour is over
    assert [one["route"] for one in own.told()["answers"]] == ["route"]
    with catalogue.write() as connection:
        processes.beat(connection, "dispatch", now(), own.told())
    with catalogue.read() as connection:
        found = {one.name: one for one in alarms_now(settings, connection, now())}
    assert found["check certificate a.crt"].text == "certificate a.crt: 2 days left. Renew it."
    assert "check certificate b.crt" not in found
    assert "route route" in found
    late = now() + timedelta(minutes=5)  # a dispatch that does not beat any more says nothing
    assert seen(settings, catalogue, late).checks == ()

"""What Prometheus reads is what the catalogue holds, and names no study and no patient."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from appliance.catalogue import Catalogue, events, processes
from appliance.catalogue.connection import now
from appliance.catalogue.tables import job, outbox
from appliance.metrics import Metrics
from appliance.objective import LEAST
from appliance.settings import Settings, load
from tests.appliance.catalogue.rows import instance, queued_job, receive
from tests.appliance.catalogue.test_trials import finished

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
ROUTE = '[[routes]]\nname = "route"\npackage = "brain"\nobjective_s = 5\n'
SITE = ("took_part", "abstained", "refused")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "curie.toml").write_text(f'[appliance]\ndata_dir = "{tmp_path}"\n{ROUTE}')
    return load(tmp_path / "curie.toml")


def read(metrics: Metrics) -> Samples:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((f"curie_{name}", frozenset(labels.items())))


def test_counters_begin_with_the_process_and_count_each_row_once(settings: Settings, catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance(uid="0.1", study="0"))
    metrics = Metrics(settings, catalogue)
    with catalogue.write() as connection:
        receive(connection, instance(uid="1.1", study="1", bytes=7))
        receive(connection, instance(uid="1.2", study="1", bytes=5))
        events.record(connection, "result_committed")
    for _ in range(2):
        found = read(metrics)
        assert value(found, "instances_total", state="current") == 2
        assert value(found, "instance_bytes_total") == 12
        assert value(found, "events_total", kind="result_committed") == 1


def test_a_job_that_ends_is_counted_with_the_seconds_of_its_steps(settings: Settings, catalogue: Catalogue) -> None:
    metrics = Metrics(settings, catalogue)
    number = finished(catalogue, "1", 2.0, timings={"inference_s": 3.0}, started_at=now())
    with catalogue.write() as connection:
        events.record(connection, "job_completed", study="1", job=number)
    found = read(metrics)
    assert value(found, "jobs_ended_total", package="brain", outcome="completed") == 1
    assert value(found, "step_seconds_sum", package="brain", step="inference") == 3.0
    assert value(found, "step_seconds_count", package="brain", step="wait") == 1


def test_federated_rounds_are_counted_at_the_site_and_at_the_coordinator(
    settings: Settings, catalogue: Catalogue
) -> None:
    metrics = Metrics(settings, catalogue)
    counts = {"counted": 3, "abstained": 1, "refused": 2, "silent": 0}
    with catalogue.write() as connection:
        for outcome in ("took_part", "took_part", "abstained", "refused"):
            events.record(connection, "round_answered", package="brain", cycle="c", round=1, outcome=outcome)
        for number in (1, 2):
            events.record(connection, "round_held", package="heart", cycle="c", round=number, sites=counts)
        events.record(connection, "round_refused", package="heart", cycle="c")
    found = read(metrics)
    answered = {one: value(found, "federation_rounds_total", package="brain", outcome=one) for one in SITE}
    held = {one: value(found, "federation_rounds_total", package="heart", outcome=one) for one in ("held", "too_few")}
    assert answered == {"took_part": 2, "abstained": 1, "refused": 1}
    assert held == {"held": 2, "too_few": 1}
    for outcome, number in counts.items():
        assert value(found, "federation_answers_total", package="heart", outcome=outcome) == 2 * number


def test_what_waits_is_told_with_its_age_and_goes_when_it_is_gone(settings: Settings, catalogue: Catalogue) -> None:
    metrics = Metrics(settings, catalogue)
    number = queued_job(catalogue, "1")
    with catalogue.write() as connection:
        at = now() - timedelta(seconds=100)
        connection.execute(update(job).where(job.c.id == number).values(created_at=at))
        processes.beat(connection, "receiver", now(), {"refused": {"unknown source": 3}, "ended": {"released": 7}})
    found = read(metrics)
    assert value(found, "jobs_waiting", package="brain", state="queued") == 1
    assert 100 <= (value(found, "queue_age_seconds") or 0) < 200
    assert [v for (name, labels), v in found.items() if name == "curie_refused"] == [3]
    assert [v for (name, labels), v in found.items() if name == "curie_associations"] == [7]
    assert [v for (name, labels), v in found.items() if name == "curie_process_healthy"] == [1]
    with catalogue.write() as connection:
        connection.execute(update(job).values(state="cancelled"))
        processes.gone(connection, "receiver")
    found = read(metrics)
    assert value(found, "jobs_waiting", package="brain", state="queued") is None
    assert value(found, "queue_age_seconds") == 0
    assert not [name for name, _ in found if name == "curie_process_healthy"]


def test_the_memory_of_a_workers_gpu_is_told_while_the_worker_beats(settings: Settings, catalogue: Catalogue) -> None:
    metrics = Metrics(settings, catalogue)
    with catalogue.write() as connection:
        memory = {"number": 1, "used_bytes": 5, "total_bytes": 9}
        processes.beat(connection, "worker-1", now(), {"gpus": [memory]})
    found = {dict(labels)["kind"]: v for (name, labels), v in read(metrics).items() if name == "curie_gpu_memory_bytes"}
    assert found == {"used": 5, "total": 9}
    with catalogue.write() as connection:
        processes.gone(connection, "worker-1")
    assert not [name for name, _ in read(metrics) if name == "curie_gpu_memory_bytes"]


@pytest.mark.parametrize(("late_s", "breached"), [(60, 1), (0, 0)])
def test_a_promise_is_told_with_what_it_took(
    settings: Settings, catalogue: Catalogue, late_s: int, breached: int
) -> None:
    for n in range(LEAST):
        number = finished(catalogue, f"1.{n}", 9.0, started_at=now())
        with catalogue.write() as connection:
            events.record(connection, "results_written", job=number)
    with catalogue.write() as connection:
        connection.execute(update(outbox).values(delivered_at=now() + timedelta(seconds=late_s)))
    found = read(Metrics(settings, catalogue))
    assert value(found, "objective_seconds", route="route") == 5
    assert value(found, "objective_breached", route="route") == breached
    assert late_s <= (value(found, "answer_seconds", route="route", quantile="0.95") or 0) < late_s + 5


def test_no_label_holds_a_study(settings: Settings, catalogue: Catalogue) -> None:
    metrics = Metrics(settings, catalogue)
    queued_job(catalogue, "1.2.826.4711")
    finished(catalogue, "1.2.826.4712", 1.0)
    assert "826.471" not in metrics.exposition().decode()

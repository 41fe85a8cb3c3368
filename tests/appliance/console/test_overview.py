"""Is all well? What is counted, what needs attention, and what programs are told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from appliance.catalogue import Catalogue, jobs, processes
from appliance.catalogue.connection import now
from appliance.catalogue.tables import job
from appliance.settings import Settings
from appliance.watch import alarms_now
from tests.appliance.catalogue.rows import queued_job
from tests.appliance.console.conftest import Enter
from tests.appliance.console.visits import said

NEEDED = ("receiver", "dispatch", "worker", "delivery", "broker")


def beat(catalogue: Catalogue, *names: str) -> None:
    with catalogue.write() as connection:
        for name in names:
            processes.beat(connection, name, now())


def test_the_first_page_says_whether_all_is_well_and_what_stands_where(enter: Enter, catalogue: Catalogue) -> None:
    client = enter()
    assert "No worker is running." in said(client.get("/"))
    beat(catalogue, *NEEDED)
    queued_job(catalogue, "1.1")
    shown = said(client.get("/"))
    assert "✓ All is well" in shown
    assert "Queued 1 jobs that wait for a worker; the first since 0." in shown
    assert "All is well" in said(client.get("/parts/overview"))


def test_a_failed_job_stands_on_the_first_page_with_its_reason(enter: Enter, catalogue: Catalogue) -> None:
    beat(catalogue, *NEEDED)
    queued_job(catalogue, "1.1")
    with catalogue.write() as connection:
        held = jobs.claim(connection, "worker", now())
        assert held is not None
        jobs.finish(connection, held, "failed", "the engine broke", now())
    shown = said(enter().get("/"))
    assert "✕ 1 thing needs attention" in shown
    assert "1 job of brain failed in the last 24 hours." in shown
    assert "the engine broke" in shown


def test_the_first_page_shows_exactly_the_alarms_that_are_told(
    enter: Enter, settings: Settings, catalogue: Catalogue
) -> None:
    beat(catalogue, *NEEDED[2:])
    number = queued_job(catalogue, "1.1")
    with catalogue.write() as connection:
        connection.execute(update(job).where(job.c.id == number).values(due_at=now() - timedelta(minutes=40)))
        processes.beat(connection, "dispatch", now(), {"checks": [{"name": "kit", "text": "old", "remedy": "Renew"}]})
    with catalogue.read() as connection:
        found = alarms_now(settings, connection, now())
    assert [one.name for one in found] == ["process receiver", "step queued", "check kit"]
    client = enter()
    shown = said(client.get("/"))
    assert "✕ 3 things need attention" in shown
    assert all(one.text in shown for one in found)
    assert [one["name"] for one in client.get("/api/status").json()["alarms"]] == [one.name for one in found]


def test_healthz_is_200_where_all_processes_beat_and_says_nothing_of_patients(
    enter: Enter, finished: str, catalogue: Catalogue
) -> None:
    client = enter()
    client.cookies.clear()
    sick = client.get("/healthz")
    assert (sick.status_code, sick.json()["ready"]) == (503, False)
    beat(catalogue, *NEEDED)
    well = client.get("/healthz")
    assert (well.status_code, well.json()["ready"]) == (200, True)
    assert set(well.json()) == {"ready", "version", "processes"}
    assert {tuple(sorted(one)) for one in well.json()["processes"]} == {("healthy", "name")}


def test_a_catalogue_that_is_away_is_503_with_a_sentence(
    enter: Enter, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = enter()

    def away() -> None:
        raise OperationalError("select", {}, Exception("SMITH^JOHN"))

    monkeypatch.setattr(catalogue, "read", away)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "the catalogue does not answer")
    page = client.get("/")
    assert page.status_code == 503
    assert "`curie doctor` says what to do." in said(page)
    assert "SMITH" not in page.text


def test_metrics_need_no_login(enter: Enter) -> None:
    client = enter()
    client.cookies.clear()
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "curie_free_bytes" in answer.text


def test_programs_with_a_session_read_status_and_studies(enter: Enter, finished: str) -> None:
    client = enter()
    status = client.get("/api/status").json()
    assert status["jobs"]["delivering"] == 1
    (study,) = client.get("/api/studies").json()
    assert (study["study_instance_uid"], study["outcomes"]) == ("1.2.3", [{"package": "brain", "state": "delivering"}])
    told = client.get("/api/studies/1.2.3").json()
    assert told["outcomes"][0]["results"][0]["role"] == "SEG"
    assert client.get("/api/studies/7.7").status_code == 404


def test_destinations_say_what_waits_and_what_they_answer(enter: Enter, finished: str, catalogue: Catalogue) -> None:
    client = enter("operator")
    assert "1 result waits, the first for" in said(client.get("/destinations"))
    token = client.get("/destinations").text.partition('name="token" value="')[2].partition('"')[0]
    asked = said(client.post("/destinations/pacs/test", data={"token": token}))
    assert "pacs does not answer as it should" in asked
    assert client.post("/destinations/other/test", data={"token": token}).status_code == 409


def test_the_audit_page_shows_who_did_what(enter: Enter, finished: str) -> None:
    client = enter("operator")
    token = client.get("/studies/1.2.3").text.partition('name="token" value="')[2].partition('"')[0]
    client.post("/studies/1.2.3/identifiers", data={"token": token})
    shown = said(client.get("/audit"))
    assert "operator-anna patient identifiers shown 1.2.3" in shown
    assert "operator-anna" not in said(client.get("/audit?kind=login")).replace("operator-anna, operator", "")
    assert client.get("/audit?kind=made-up").status_code == 409
    assert client.get("/audit?before=x").status_code == 409

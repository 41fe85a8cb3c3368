"""What the commands say of those outside: what a destination does not take, who was told, what a worklist asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from appliance.catalogue import Catalogue, notices, open_catalogue, outbox, workitems
from appliance.catalogue.connection import now
from appliance.catalogue.tables import job as job_table
from appliance.catalogue.tables import outbox as outbox_table
from appliance.cli import app
from appliance.neighbours import check_destinations, check_messages, check_worklists
from appliance.settings import Settings, load
from dicom_nodes import observation_message
from tests.mllp_listener import Listener
from tests.web_server import WebServer
from tests.workers.parcels import MR, SECONDARY_CAPTURE, waiting_job
from tests.workitem_server import Worklist

SETTINGS = """
[[destinations]]
name = "pacs"
url = "{url}"
results = ["SEG", "SR", "SC"]
[[routes]]
name = "route"
package = "brain"
destinations = ["pacs"]
[[worklists]]
name = "list"
url = "{url}"
route = "route"
label = "AI"
[[messages]]
name = "ris"
host = "127.0.0.1"
port = {port}
"""


@pytest.fixture
def there() -> Iterator[Worklist]:
    made = Worklist()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def file(tmp_path: Path, there: Worklist, listener: Listener) -> Path:
    written = tmp_path / "curie.toml"
    written.write_text(SETTINGS.format(url=there.url, port=listener.port))
    return written


@pytest.fixture
def settings(file: Path) -> Settings:
    return load(file)


@pytest.fixture
def here(settings: Settings) -> Iterator[Catalogue]:
    opened = open_catalogue(settings.catalogue_url, settings.data_dir)
    yield opened
    opened.close()


def said(file: Path, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*words, "--config", str(file)])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def job(settings: Settings, here: Catalogue) -> str:
    """A finished job of which everybody outside said something."""
    made = waiting_job(here, settings, (("SEG", MR), ("SR", MR), ("SC", SECONDARY_CAPTURE)))
    with here.write() as connection:
        picture, *rest = sorted(outbox.due(connection, now()), key=lambda one: one.role)
        outbox.not_taken(connection, picture, "pacs does not accept this kind of object (0x0122)")
        for one in rest:
            outbox.delivered(connection, one, "200", now(), now())
        assert outbox.complete_jobs(connection, frozenset(), now()) == [made]
        notices.opened(connection, notices.OBSERVATIONS, made, "ris", now())
        (told,) = notices.due(connection, now())
        notices.refused(connection, told, "ris rejected the message (AR)")
        row: dict[str, Any] = {"worklist": "list", "transaction_uid": "2.25.77", "route": "route", "urgent": 0}
        workitems.seen(connection, {"sop_instance_uid": "1.9", "study_instance_uid": "1", **row}, now())
        workitems.left(connection, "1.9", "the study is still coming")
    return made


def test_explain_tells_all_of_it(file: Path, job: str) -> None:
    lines = said(file, "explain", "1")
    assert "asked for by worklist list (workitem 1.9): scheduled: the study is still coming" in lines
    assert "pacs withdrawn: pacs does not accept this kind of object (0x0122)" in lines
    assert "HL7 message to ris: refused: ris rejected the message (AR)" in lines
    told = json.loads(said(file, "explain", "1", "--json"))
    (outcome,) = [one for one in told["outcomes"] if one["route"] == "route"]
    assert [(one["role"], one["state"]) for one in outcome["results"]] == [
        ("SC", "withdrawn"),
        ("SEG", "delivered"),
        ("SR", "delivered"),
    ]
    assert outcome["outcome"] == "completed"
    assert [one["state"] for one in outcome["notices"]] == ["refused"]
    assert [one["state"] for one in told["workitems"]] == ["scheduled"]
    assert "2.25.77" not in json.dumps(told)


def test_status_counts_it_and_names_what_is_not_taken(file: Path, job: str) -> None:
    lines = said(file, "status", code=1)
    assert "not taken pacs does not take SC (1 times): pacs does not accept this kind of object (0x0122)" in lines
    assert "notices   waiting 0  sent 0  refused 1" in lines
    assert "workitems scheduled 1" in lines
    assert lines.count("No receiver is running. `curie up`, or `curie run receiver`.") == 1
    told = json.loads(said(file, "status", "--json", code=1))
    assert f"alarms    {len(told['alarms'])}\n" in lines
    assert [(one["destination"], one["role"], one["count"]) for one in told["not_taken"]] == [("pacs", "SC", 1)]


def test_what_we_did_not_send_is_not_called_refused(here: Catalogue, settings: Settings, file: Path, job: str) -> None:
    with here.write() as connection:
        connection.execute(update(outbox_table).values(state="waiting"))
        outbox.withdraw(connection, job, "a newer result replaces it")
        assert outbox.not_taken_by(connection) == []
    assert "not taken" not in said(file, "status", code=1)


def test_outputs_of_a_workitem_are_what_lies_at_a_destination(here: Catalogue, job: str) -> None:
    with here.read() as connection:
        assert [(one.destination, one.sop_class_uid) for one in workitems.outputs(connection, job)] == [
            ("pacs", MR),
            ("pacs", MR),
        ]


def test_a_refused_notice_of_a_finished_job_is_sent_again(file: Path, here: Catalogue, job: str) -> None:
    assert json.loads(said(file, "jobs", "retry", job, "--json")) == {"id": job, "state": "completed"}
    with here.read() as connection:
        assert [one["state"] for one in notices.of_job(connection, job)] == ["waiting"]
    said(file, "jobs", "retry", job, code=1)


def test_a_failed_job_is_retried_with_its_notices(file: Path, here: Catalogue, job: str) -> None:
    with here.write() as connection:
        connection.execute(update(job_table).values(state="failed"))
    assert json.loads(said(file, "jobs", "retry", job, "--json"))["state"] == "delivering"
    with here.read() as connection:
        assert [one["state"] for one in notices.of_job(connection, job)] == ["waiting"]


# --- doctor ---


def test_doctor_asks_everybody_outside(settings: Settings, there: Worklist, listener: Listener) -> None:
    (worklist,), (messages,) = check_worklists(settings), check_messages(settings)
    assert (worklist.ok, worklist.text) == (True, "answers; nothing is scheduled for us")
    assert (messages.ok, messages.text) == (True, "takes connections")
    assert listener.messages == []


def test_doctor_tells_who_is_away(settings: Settings, there: Worklist, listener: Listener) -> None:
    there.before = [("GET workitems", 401)]
    listener.stop()
    (worklist,), (messages,) = check_worklists(settings), check_messages(settings)
    assert (worklist.ok, messages.ok) == (False, False)
    assert "401: it wants credentials" in worklist.text
    assert "does not answer" in messages.text
    assert worklist.remedy
    assert messages.remedy
    listener.start()


def test_doctor_asks_a_web_destination_by_http(tmp_path: Path) -> None:
    server = WebServer(lambda request: (200, []))
    server.start()
    try:
        (tmp_path / "curie.toml").write_text(f'[[destinations]]\nname = "web"\nurl = "{server.url}"\n')
        (found,) = check_destinations(load(tmp_path / "curie.toml"))
        assert (found.ok, found.text) == (True, "answers QIDO-RS with 200")
        server.answer = lambda request: (503, b"")
        (found,) = check_destinations(load(tmp_path / "curie.toml"))
        assert not found.ok
    finally:
        server.stop()


def test_without_the_library_for_messages_it_is_said_in_one_line(
    file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation_message, "find_spec", lambda name: None)
    (messages,) = check_messages(settings)
    assert not messages.ok
    assert "petite-curie[hl7]" in messages.text
    done = CliRunner().invoke(app, ["doctor", "--json", "--config", str(file)])
    assert done.stderr.count("petite-curie[hl7]") == 1
    assert "Traceback" not in done.stderr

"""Workitems performed for a worklist that keeps to the state machine: claimed once, ended as it was, over restarts."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from appliance.catalogue import Catalogue, jobs, orders, overview, workitems
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import Claim
from appliance.catalogue.tables import job, workitem
from appliance.catalogue.tables import outbox as outbox_table
from appliance.settings import Settings, parse
from dicom_nodes.spool import write_durably
from dicom_nodes.worklist import retrieve
from tests import phantoms
from tests.phantoms import part10, series
from tests.web_server import Reply, Request, WebServer, references, response
from tests.workers.parcels import happened
from tests.workers.test_line import HEAD, Line
from tests.workitem_server import Worklist, code, found, value
from workers.delivery import Delivery
from workers.performing import Performing, start

SETTINGS = """
[spool]
reserve_gb = 0
[completeness]
after_release_s = 0
quiet_s = 0
[[destinations]]
name = "web"
url = "{pacs}"
[[routes]]
name = "brain"
package = "brain-structures"
destinations = ["web"]
match = {{ Modality = "MR" }}
on_request = {on_request}
[[worklists]]
name = "list"
url = "{url}"
route = "brain"
scheduled_station = "CURIE"
"""
UID = "1.9.1"
SERIES = "1.2.9"


def stores(request: Request) -> Reply:
    return 200, response(references(request))


class House:
    """An appliance between a worklist and a PACS, driven by hand."""

    def __init__(self, folder: Path, catalogue: Catalogue, there: Worklist, on_request: bool) -> None:
        self.catalogue, self.there = catalogue, there
        self.pacs = WebServer(stores)
        self.pacs.start()
        text = SETTINGS.format(url=there.url, pacs=self.pacs.url, on_request=str(on_request).lower())
        self.settings: Settings = parse(text, folder / "curie.toml")
        self.line = Line(self.settings, catalogue)
        self.restart()

    def restart(self) -> None:
        """Begin anew with what the catalogue holds."""
        self.performing = Performing(self.settings, self.catalogue, self.settings.worklists[0])

    def poll(self) -> str:
        """Let nothing wait any longer, and make one pass; returns the state of the workitem here."""
        with self.catalogue.write() as connection:
            connection.execute(update(workitem).values(due_at=now() - timedelta(seconds=1)))
        self.performing.step()
        return str(self.row().state) if self.row() else ""

    def row(self, uid: str = UID) -> Any:
        with self.catalogue.read() as connection:
            return connection.execute(select(workitem).where(workitem.c.sop_instance_uid == uid)).one_or_none()

    def jobs(self) -> list[Any]:
        with self.catalogue.read() as connection:
            return list(connection.execute(select(job)).all())

    def run(self) -> str:
        """Let a worker run the queued job, and write its results; returns the job."""
        held = self.claim_job()
        (ds, *_) = series(phantoms.Phantom(slices=1))
        ds.SeriesInstanceUID = SERIES
        content = part10(ds)
        write_durably(self.settings.results_dir / "SR.dcm", content)
        made = jobs.NewResult(
            str(ds.SOPInstanceUID),
            str(ds.SOPClassUID),
            SERIES,
            "SR",
            "SR.dcm",
            hashlib.sha256(content).hexdigest(),
            len(content),
        )
        record = {"engine": "e", "timings": {}, "findings": []}
        with self.catalogue.write() as connection:
            jobs.commit_results(connection, held, [made], {"web": ("SEG", "SR")}, record, now())
        return held.id

    def claim_job(self) -> Claim:
        with self.catalogue.write() as connection:
            held = jobs.claim(connection, "w", now())
        assert held is not None
        return held

    def deliver(self) -> None:
        with self.catalogue.write() as connection:
            connection.execute(update(outbox_table).values(due_at=now() - timedelta(seconds=1)))
        Delivery(self.settings, self.catalogue).step()

    def explained(self, study: str) -> dict[str, Any]:
        with self.catalogue.read() as connection:
            return overview.explain(connection, study)


@pytest.fixture
def there() -> Iterator[Worklist]:
    made = Worklist()
    made.start()
    yield made
    made.stop()


@pytest.fixture(params=[True, False], ids=["on request", "any study"])
def house(tmp_path: Path, catalogue: Catalogue, there: Worklist, request: pytest.FixtureRequest) -> Iterator[House]:
    made = House(tmp_path, catalogue, there, request.param)
    yield made
    made.pacs.stop()


@pytest.fixture
def asked(tmp_path: Path, catalogue: Catalogue, there: Worklist) -> Iterator[House]:
    made = House(tmp_path, catalogue, there, True)
    yield made
    made.pacs.stop()


def receive(house: House, **change: Any) -> str:
    images = series(HEAD)
    for ds in images:
        for keyword, one in change.items():
            setattr(ds, keyword, one)
    return house.line.receive(images)


def claimed(house: House) -> str:
    """Return a study whose workitem is claimed, and whose job is queued."""
    study = receive(house)
    house.there.schedule(UID, study)
    assert house.poll() == "claimed"
    house.line.dispatch.step()
    return study


def test_from_scheduled_to_completed(house: House, there: Worklist) -> None:
    study = receive(house)
    assert len(house.jobs()) == (0 if house.settings.routes[0].on_request else 1)
    there.schedule(UID, study, _00404018=code("BRAIN"))
    assert house.poll() == "claimed"
    assert there.state(UID) == "IN PROGRESS"
    house.line.dispatch.step()
    assert len(house.jobs()) == 1
    house.poll()
    made = house.run()
    house.poll()
    assert there.progress == [0, 90]
    assert there.state(UID) == "IN PROGRESS", "nothing is delivered yet"
    house.deliver()
    assert house.poll() == "closed"
    assert there.states == [(UID, "IN PROGRESS"), (UID, "COMPLETED")]
    assert there.progress == [0, 90, 100]
    (output,) = found(there.items[UID], "00741216", "00404033")
    assert found(output, "0020000D") == [study]
    assert found(output, "0020000E") == [SERIES]
    with house.catalogue.read() as connection:
        (result,) = overview.results(connection, made)
    assert found(output, "00081199", "00081155") == [result["sop_instance_uid"]]
    assert found(output, "0040E025", "00081190") == [f"{house.pacs.url}/studies/{study}/series/{SERIES}"]
    requests = len(there.server.requests)
    house.poll()
    assert len(there.server.requests) == requests + 1, "one search, and nothing of what is closed"
    assert happened(house.catalogue, "workitem_closed") == 1


def test_a_study_that_is_not_here_is_left_scheduled_until_it_comes(asked: House, there: Worklist) -> None:
    images = series(HEAD)
    study = str(images[0].StudyInstanceUID)
    there.schedule(UID, study)
    assert asked.poll() == "scheduled"
    assert asked.row().reason == "the study is not here"
    asked.line.index(images)
    assert asked.poll() == "scheduled"
    assert asked.row().reason == "the study is still coming"
    assert there.states == []
    asked.line.dispatch.step()
    assert asked.poll() == "claimed"


def test_what_no_route_matches_is_left_to_others(asked: House, there: Worklist) -> None:
    study = receive(asked, Modality="CT")
    there.schedule(UID, study)
    assert asked.poll() == "scheduled"
    assert "Modality is CT" in asked.row().reason
    assert there.states == []
    there.take(UID)
    assert asked.poll() == ""


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"_00404041": value("CS", "INCOMPLETE")}, "inputs are said to be incomplete"),
        ({"_00404021": value("SQ")}, "it names no study"),
    ],
)
def test_what_is_not_ready_is_left(asked: House, there: Worklist, more: dict[str, Any], reason: str) -> None:
    there.schedule(UID, receive(asked), **more)
    assert asked.poll() == "scheduled"
    assert reason in asked.row().reason
    assert there.states == []


def test_what_is_not_for_us_is_not_touched_though_the_server_finds_it(asked: House, there: Worklist) -> None:
    there.searches = False
    there.schedule(UID, receive(asked), _00404025=code("OTHER"))
    asked.poll()
    assert asked.poll() == ""
    assert len([one for one in there.server.requests if one.path.endswith(UID)]) == 1


def test_what_cannot_be_read_is_cancelled_with_the_reason(house: House, there: Worklist) -> None:
    images = series(HEAD)[:1]
    there.schedule(UID, house.line.receive(images))
    assert house.poll() == "claimed"
    house.line.dispatch.step()
    assert house.poll() == "closed"
    assert there.states == [(UID, "IN PROGRESS"), (UID, "CANCELED")]
    assert found(there.items[UID], "00741002", "0074100E", "00080100") == ["110522"]
    (reason,) = found(there.items[UID], "00741002", "00741238")
    assert reason.startswith("unsuitable: ")
    assert "1 image" in reason


@pytest.mark.parametrize(("ending", "reason_code"), [("failed", "110501"), ("cancelled", "110513")])
def test_a_job_that_ends_otherwise_cancels_the_workitem(
    asked: House, there: Worklist, ending: str, reason_code: str
) -> None:
    claimed(asked)
    (one,) = asked.jobs()
    with asked.catalogue.write() as connection:
        if ending == "cancelled":
            orders.cancel(connection, one.id, "marie", now())
        else:
            held = jobs.claim(connection, "w", now())
            assert held is not None
            jobs.finish(connection, held, "failed", "the model broke", now())
    assert asked.poll() == "closed"
    assert there.state(UID) == "CANCELED"
    assert found(there.items[UID], "00741002", "0074100E", "00080100") == [reason_code]
    assert found(there.items[UID], "00741002", "00741238")[0].startswith(ending)
    assert asked.jobs()[0].state == ending


def test_results_that_were_refused_are_no_completion(asked: House, there: Worklist) -> None:
    claimed(asked)
    asked.run()
    asked.pacs.answer = lambda request: (403, b"")
    asked.deliver()
    assert asked.poll() == "closed"
    assert there.state(UID) == "CANCELED"
    assert "403" in found(there.items[UID], "00741002", "00741238")[0]


def test_a_pacs_that_is_away_keeps_the_workitem_in_progress(asked: House, there: Worklist) -> None:
    claimed(asked)
    asked.run()
    asked.pacs.answer = lambda request: (503, b"")
    asked.deliver()
    asked.poll()
    assert there.state(UID) == "IN PROGRESS"
    asked.pacs.answer = stores
    asked.deliver()
    asked.poll()
    assert there.state(UID) == "COMPLETED"


def test_urgent_is_asked_for_and_goes_first(house: House, there: Worklist) -> None:
    study = receive(house)
    there.schedule(UID, study, _00741200=value("CS", "HIGH"))
    house.poll()
    house.line.dispatch.step()
    assert [one.priority for one in house.jobs()] == [0]


def test_a_study_that_was_read_before_is_answered_at_once(
    tmp_path: Path, catalogue: Catalogue, there: Worklist
) -> None:
    house = House(tmp_path, catalogue, there, on_request=False)
    study = receive(house)
    house.run()
    house.deliver()
    there.schedule(UID, study)
    assert house.poll() == "claimed"
    house.line.dispatch.step()
    assert house.poll() == "closed"
    assert there.state(UID) == "COMPLETED"
    assert len(house.jobs()) == 1
    assert found(there.items[UID], "00741216", "00404033", "00081199", "00081155")
    house.pacs.stop()


def test_a_second_workitem_for_the_same_study_runs_nothing_twice(asked: House, there: Worklist) -> None:
    study = claimed(asked)
    asked.run()
    asked.deliver()
    asked.poll()
    there.schedule("1.9.2", study)
    asked.poll()
    asked.line.dispatch.step()
    asked.poll()
    assert there.state("1.9.2") == "COMPLETED"
    assert len(asked.jobs()) == 1
    assert there.holders[UID] != there.holders["1.9.2"]


def test_later_images_do_not_take_back_that_it_was_asked(asked: House) -> None:
    study = claimed(asked)
    asked.run()
    asked.deliver()
    asked.poll()
    other = series(HEAD)[:1]
    for ds in other:
        ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.3.88", "1.2.3.88.1"
    asked.line.receive(other)
    (outcome,) = [one for one in asked.explained(study)["outcomes"] if one["route"] == "brain"]
    assert outcome["outcome"] == "completed"


def test_without_a_worklist_the_route_says_why_it_does_not_run(asked: House) -> None:
    (outcome,) = [one for one in asked.explained(receive(asked))["outcomes"] if one["route"] == "brain"]
    assert (outcome["outcome"], outcome["reason"]) == ("not_routed", "the route runs only where a worklist asks for it")


# --- who was quicker ---


def test_what_somebody_else_claimed_meanwhile_is_let_go(house: House, there: Worklist) -> None:
    study = receive(house)
    there.schedule(UID, study)
    retrieve = there._do

    def quicker(request: Request) -> Reply:
        if request.method == "PUT" and there.state(UID) == "SCHEDULED":
            there.take(UID)
        return retrieve(request)

    there._do = quicker  # type: ignore[method-assign]
    assert house.poll() == "lost"
    assert "409" in house.row().answer
    assert there.holders[UID] == "9.9.9"
    before = len(there.server.requests)
    house.poll()
    assert len(there.server.requests) == before + 1
    house.line.dispatch.step()
    assert len(house.jobs()) == (0 if house.settings.routes[0].on_request else 1)


def test_a_workitem_that_was_removed_or_ended_there_is_let_go(asked: House, there: Worklist) -> None:
    claimed(asked)
    asked.run()
    asked.deliver()
    there._move(UID, "CANCELED")
    assert asked.poll() == "lost"
    assert "CANCELED by somebody else" in asked.row().answer
    assert asked.jobs()[0].state == "completed"


@pytest.mark.parametrize("status", [404, 409, 410])
def test_an_answer_that_will_not_change_lets_go_in_one_line(asked: House, there: Worklist, status: int) -> None:
    claimed(asked)
    there.before = [("POST ", status)]
    asked.poll()
    assert asked.row().state == "lost"
    assert str(status) in asked.row().answer
    assert "\n" not in asked.row().answer
    assert happened(asked.catalogue, "workitem_lost") == 1


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_an_answer_that_may_change_is_asked_for_again(asked: House, there: Worklist, status: int) -> None:
    study = receive(asked)
    there.schedule(UID, study)
    there.before = [("PUT state", status)]
    assert asked.poll() == "claiming"
    assert str(status) in asked.row().answer
    assert asked.row().tries == 1
    assert asked.poll() == "claimed"
    assert there.states == [(UID, "IN PROGRESS")]


def test_a_worklist_that_is_away_is_said_once(asked: House, there: Worklist, capfd: pytest.CaptureFixture[str]) -> None:
    there.before = [("GET workitems", 503)] * 3
    for _ in range(3):
        asked.performing.step()
    assert "".join(capfd.readouterr()).count("worklist_away") == 1


# --- restarts ---


def test_a_claim_whose_answer_was_lost_is_ours(asked: House, there: Worklist) -> None:
    there.schedule(UID, receive(asked))
    there.after = [("PUT state", 503)]
    assert asked.poll() == "claiming"
    assert there.state(UID) == "IN PROGRESS"
    asked.restart()
    assert asked.poll() == "claimed"
    assert there.states == [(UID, "IN PROGRESS")]


def test_a_restart_before_the_claim_left_claims_once(asked: House, there: Worklist) -> None:
    there.schedule(UID, receive(asked))
    asked.performing._look()
    assert asked.row().state == "claiming"
    assert there.state(UID) == "SCHEDULED"
    asked.restart()
    assert asked.poll() == "claimed"


@pytest.mark.parametrize("fault", ["GET 1.9.1", "POST 1.9.1", "PUT state"])
@pytest.mark.parametrize("done", [True, False])
def test_a_restart_while_it_ends_ends_it_once(asked: House, there: Worklist, fault: str, done: bool) -> None:
    claimed(asked)
    asked.run()
    asked.poll()
    asked.deliver()
    (there.after if done else there.before).append((fault, 503))
    assert asked.poll() == "closing"
    asked.restart()
    assert asked.poll() == "closed"
    assert there.states == [(UID, "IN PROGRESS"), (UID, "COMPLETED")]


def test_an_empty_catalogue_keeps_the_key_to_what_it_claimed(asked: House, there: Worklist) -> None:
    claimed(asked)
    item = retrieve(asked.settings.worklists[0], UID)
    again = asked.performing._row(UID, item)
    assert again["transaction_uid"] == there.holders[UID]
    assert again["transaction_uid"] != asked.performing._row("1.9.2", item)["transaction_uid"]


def test_what_is_shown_names_no_transaction(asked: House) -> None:
    study = claimed(asked)
    with asked.catalogue.read() as connection:
        (told,) = workitems.of_study(connection, study)
        assert workitems.counts(connection)["claimed"] == 1
        held = workitems.of_worklist(connection, "list", ("claimed",), now())
    assert told["state"] == "claimed"
    assert asdict(held[0])["transaction_uid"] not in str(told)


def test_each_worklist_is_served_by_itself(asked: House, there: Worklist) -> None:
    one = asked.settings.worklists[0].model_copy(update={"poll_s": 0.1})
    there.schedule(UID, receive(asked))
    stop = threading.Event()
    start(asked.settings.model_copy(update={"worklists": (one,)}), asked.catalogue, stop)
    deadline = time.monotonic() + 20
    while there.states != [(UID, "IN PROGRESS")] and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    assert there.states == [(UID, "IN PROGRESS")]

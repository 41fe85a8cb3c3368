"""The performer's requests against a worklist that keeps to the state machine, and against servers that do not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from appliance.catalogue.workitems import Output
from appliance.errors import Refused, Unreachable
from appliance.finding import Code
from appliance.outward import Destination
from appliance.outward import Worklist as Settings
from dicom_nodes import worklist
from dicom_nodes.worklist import Performance
from tests.web_server import WebServer
from tests.workitem_server import Worklist, code, found, value

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OURS, THEIRS = "2.25.1", "2.25.2"
REASON = Code("110513", "DCM", "Discontinued for unspecified reason")


@pytest.fixture
def there() -> Iterator[Worklist]:
    made = Worklist()
    made.start()
    yield made
    made.stop()


def settings(url: str, **keys: Any) -> Settings:
    keys = keys or {"scheduled_station": "CURIE"}
    return Settings.model_validate({"name": "list", "url": url, "route": "r", **keys})


def claim(there: Worklist, uid: str = "1.1", transaction: str = OURS) -> None:
    worklist.change_state(settings(there.url), uid, "IN PROGRESS", transaction, "CURIE")


def done(*outputs: Output, **destinations: Destination) -> Performance:
    return Performance("1.2", "st-elsewhere", AT, AT, outputs, destinations)


def test_a_search_names_state_station_label_and_code(there: Worklist) -> None:
    there.schedule("1.1", "1.2", _00741202=value("LO", "AI"), _00404018=code("BRAIN"))
    keys = {"scheduled_station": "CURIE", "label": "AI", "workitem_code": "BRAIN"}
    assert worklist.search(settings(there.url, **keys)) == ["1.1"]
    for key in keys:
        assert worklist.search(settings(there.url, **{**keys, key: "OTHER"})) == []
    there.take("1.1")
    assert worklist.search(settings(there.url)) == []


def test_a_search_turns_pages(there: Worklist) -> None:
    for n in range(2 * worklist.PAGE + 5):
        there.schedule(f"1.{n + 1}", "1.2")
    assert len(worklist.search(settings(there.url))) == 2 * worklist.PAGE + 5
    assert [dict(one.query).get("offset") for one in there.server.requests] == [None, "100", "200"]


def test_a_server_that_repeats_its_first_page_ends_the_search(there: Worklist) -> None:
    page = [{"00080018": value("UI", f"1.{n + 1}")} for n in range(worklist.PAGE)]
    there.server.answer = lambda request: (200, page)
    assert len(worklist.search(settings(there.url))) == worklist.PAGE
    assert len(there.server.requests) == 2


def test_a_workitem_is_read_as_it_is(there: Worklist) -> None:
    there.schedule("1.1", "1.2", _00741200=value("CS", "HIGH"), _00404041=value("CS", "INCOMPLETE"))
    item = worklist.retrieve(settings(there.url), "1.1")
    assert (item.state, item.study_instance_uid, item.urgent, item.ready) == ("SCHEDULED", "1.2", True, False)
    assert item.asks_us
    assert not worklist.retrieve(settings(there.url, label="AI"), "1.1").asks_us
    assert not worklist.retrieve(settings(there.url, workitem_code="X"), "1.1").asks_us


@pytest.mark.parametrize(
    ("more", "study"),
    [
        ({"_00404021": value("SQ", {"0020000D": value("UI", "1.2")}, {"0020000D": value("UI", "1.2")})}, "1.2"),
        ({"_00404021": value("SQ", {"0020000D": value("UI", "1.2")}, {"0020000D": value("UI", "1.3")})}, ""),
        ({"_00404021": value("SQ"), "_0020000D": value("UI", "1.4")}, "1.4"),
        ({"_00404021": {"vr": "SQ"}}, ""),
        ({"_00404021": value("SQ", "odd", {"0020000D": "odd"})}, ""),
        ({"_00404021": value("SQ", {"0020000D": value("UI", "../etc")})}, ""),
    ],
)
def test_the_study_is_that_of_all_inputs(there: Worklist, more: dict[str, Any], study: str) -> None:
    there.schedule("1.1", "1.2", **more)
    assert worklist.retrieve(settings(there.url), "1.1").study_instance_uid == study


def test_claim_progress_and_completion_with_where_the_results_lie(there: Worklist) -> None:
    there.schedule("1.1", "1.2", _00404018=code("BRAIN"))
    mine = settings(there.url)
    claim(there)
    worklist.report_progress(mine, "1.1", OURS, 10, "images are read")
    outputs = (
        Output("pacs", "1.5", "1.2.1", "1.2.9"),
        Output("pacs", "1.5", "1.2.2", "1.2.9"),
        Output("web", "1.5", "1.2.1", "1.2.9"),
    )
    destinations = {
        "pacs": Destination(name="pacs", ae_title="PACS", host="h"),
        "web": Destination(name="web", url="https://pacs/dicom-web"),
    }
    item = worklist.retrieve(mine, "1.1")
    worklist.report_performed(mine, "1.1", OURS, item, done(*outputs, **destinations))
    worklist.change_state(mine, "1.1", "COMPLETED", OURS, "CURIE")
    assert there.states == [("1.1", "IN PROGRESS"), ("1.1", "COMPLETED")]
    assert there.progress == [10, 100]
    (performed,) = found(there.items["1.1"], "00741216")
    assert found(performed, "00404028", "00080100") == ["CURIE"]
    assert found(performed, "00404019", "00080100") == ["BRAIN"]
    assert found(performed, "00404050") == ["20260102030405+0000"]
    first, second = found(performed, "00404033")
    assert found(first, "0040E021", "00080054") == ["PACS"]
    assert found(first, "00081199", "00081155") == ["1.2.1", "1.2.2"]
    assert found(second, "0040E025", "00081190") == ["https://pacs/dicom-web/studies/1.2/series/1.2.9"]
    assert found(second, "0020000E") == ["1.2.9"]
    updates = [one for one in there.server.requests if one.method == "POST"]
    assert {dict(one.query)["transaction"] for one in updates} == {OURS}


def test_without_codes_there_we_say_our_own(there: Worklist) -> None:
    there.schedule("1.1", "1.2", _00404025=value("SQ"))
    mine = settings(there.url)
    claim(there)
    worklist.report_performed(mine, "1.1", OURS, worklist.retrieve(mine, "1.1"), done())
    worklist.change_state(mine, "1.1", "COMPLETED", OURS, "CURIE")
    (performed,) = found(there.items["1.1"], "00741216")
    assert found(performed, "00404028", "00080100") == ["st-elsewhere"]
    assert found(performed, "00404019", "00080100") == ["110001"]
    assert performed["00404033"]["Value"] == []


def test_cancellation_with_reason(there: Worklist) -> None:
    there.schedule("1.1", "1.2")
    mine = settings(there.url)
    claim(there)
    with pytest.raises(Refused, match="409"):
        worklist.change_state(mine, "1.1", "CANCELED", OURS, "CURIE")
    worklist.report_reason(mine, "1.1", OURS, REASON, "no series fits", AT)
    worklist.change_state(mine, "1.1", "CANCELED", OURS, "CURIE")
    assert found(there.items["1.1"], "00741002", "0074100E", "00080100") == ["110513"]
    assert found(there.items["1.1"], "00741002", "00741238") == ["no series fits"]


def test_what_somebody_else_holds_is_refused(there: Worklist) -> None:
    there.schedule("1.1", "1.2")
    there.take("1.1", THEIRS)
    with pytest.raises(Refused, match="409: the workitem's state, or who holds it") as claimed:
        claim(there)
    with pytest.raises(Refused, match="400: it refuses the request, or the Transaction UID") as reported:
        worklist.report_progress(settings(there.url), "1.1", OURS, 10, "")
    assert {claimed.value.status, reported.value.status} <= worklist.NOT_OURS
    assert OURS not in f"{claimed.value}{reported.value}"
    assert there.holders == {"1.1": THEIRS}


def test_dcm4chee_wants_an_ae_title_behind_the_state(there: Worklist) -> None:
    there.titled = True
    there.schedule("1.1", "1.2")
    claim(there)
    assert there.state("1.1") == "IN PROGRESS"
    with pytest.raises(Refused, match="does not know the workitem"):
        claim(there, "1.7")


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, Refused, "wants credentials"),
        (403, Refused, "wants credentials"),
        (404, Refused, "UPS-RS is not there"),
        (500, Unreachable, "500"),
        (503, Unreachable, "503"),
        (302, Refused, "points elsewhere"),
    ],
)
def test_a_search_that_is_refused(status: int, error: type[Exception], said: str) -> None:
    server = WebServer(lambda request: (status, b""))
    server.start()
    try:
        with pytest.raises(error, match=said):
            worklist.search(settings(server.url))
        with pytest.raises(error, match=said):
            worklist.probe(settings(server.url))
    finally:
        server.stop()


@pytest.mark.parametrize(
    "answer", [b"<xml/>", b"[1]", b'"text"', b"null", b'[{"00080018": {"Value": ["1.9"]}}]', b"[]"]
)
def test_what_is_no_workitem_is_not_read(answer: bytes) -> None:
    server = WebServer(lambda request: (200, answer))
    server.start()
    try:
        with pytest.raises(Unreachable):
            worklist.retrieve(settings(server.url), "1.1")
    finally:
        server.stop()


def test_a_probe_changes_nothing(there: Worklist) -> None:
    assert worklist.probe(settings(there.url)) == "answers; nothing is scheduled for us"
    there.schedule("1.1", "1.2")
    assert worklist.probe(settings(there.url)) == "answers; something is scheduled for us"
    assert {one.method for one in there.server.requests} == {"GET"}

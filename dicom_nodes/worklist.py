"""Our performer's side of UPS-RS (PS3.18 Section 11): search, retrieve, claim, report, complete or cancel workitems.

It must never change a workitem without its Transaction UID, nor say one: who knows it holds the workitem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from appliance.catalogue.workitems import Output
from appliance.errors import Refused, Unreachable
from appliance.finding import Code
from appliance.outward import Destination, Worklist
from dicom_nodes.contexts import is_uid
from dicom_nodes.web import Answer, Body, ask, json_body, refusal

UPS = "UPS-RS"
SCHEDULED, IN_PROGRESS = "SCHEDULED", "IN PROGRESS"
PAGE, MOST_PAGES = 100, 20  # workitems of one answer; answers to one search
INSTANCE, TRANSACTION, STATE = "00080018", "00081195", "00741000"
LABEL, PRIORITY, READINESS = "00741202", "00741200", "00404041"
STATIONS, WORKITEM_CODES = "00404025", "00404018"
INPUTS, STUDY, SERIES = "00404021", "0020000D", "0020000E"
PROGRESS, PERFORMED = "00741002", "00741216"
CODE_VALUE = "00080100"
IMAGE_PROCESSING = Code("110001", "DCM", "Image Processing")  # CID 9231
SAID = {  # of one workitem; everything else is of the service
    400: "it refuses the request, or the Transaction UID",
    404: "it does not know the workitem",
    409: "the workitem's state, or who holds it, does not allow that",
    410: "the workitem is gone",
}
NOT_OURS = frozenset(SAID)  # statuses that do not change by asking again

Item = Mapping[str, Any]  # a dataset in DICOM JSON (PS3.18 Annex F)


@dataclass(frozen=True)
class Workitem:
    """What a worklist says of one workitem."""

    state: str  # Procedure Step State
    study_instance_uid: str  # of its inputs; "" where they name none, or several
    urgent: bool
    ready: bool  # its inputs are not said to be incomplete
    asks_us: bool  # its station, label and code are those of the settings
    stations: Sequence[Item]
    codes: Sequence[Item]  # of what is to be done


@dataclass(frozen=True)
class Performance:
    """What was done for a workitem."""

    study_instance_uid: str
    station: str  # our name, where the workitem names no station
    started_at: datetime
    ended_at: datetime
    outputs: Sequence[Output]
    destinations: Mapping[str, Destination]


def search(worklist: Worklist) -> list[str]:
    """Return the UIDs of the SCHEDULED workitems that ask for us (Section 11.9). Raises Refused or Unreachable."""
    found: list[str] = []
    for page in range(MOST_PAGES):
        some = _page(worklist, [("limit", str(PAGE)), *([("offset", str(page * PAGE))] if page else [])])
        new = [uid for one in some if is_uid(uid := _text(one, INSTANCE)) and uid not in found]
        found += new
        if len(some) < PAGE or not new:
            break
    return found


def probe(worklist: Worklist) -> str:
    """Search for one workitem; returns the answer in words. Raises Refused or Unreachable."""
    return f"answers; {'something' if _page(worklist, [('limit', '1')]) else 'nothing'} is scheduled for us"


def _page(worklist: Worklist, limits: Sequence[tuple[str, str]]) -> Sequence[Item]:
    query = [("ProcedureStepState", SCHEDULED)]
    for key, value in (
        ("ScheduledStationNameCodeSequence.CodeValue", worklist.scheduled_station),
        ("WorklistLabel", worklist.label),
        ("ScheduledWorkitemCodeSequence.CodeValue", worklist.workitem_code),
    ):
        query += [(key, value)] if value else []
    answer = ask(worklist, worklist.url, "GET", "/workitems", query=[*query, *limits])
    if answer.status == 204:
        return []
    if answer.status not in (200, 206):
        raise refusal(worklist, answer.status, UPS)
    return _datasets(worklist, answer)


def retrieve(worklist: Worklist, uid: str) -> Workitem:
    """Return one workitem (Section 11.5). Raises Refused or Unreachable."""
    found = _datasets(worklist, _asked(worklist, "GET", uid))
    if len(found) != 1 or _text(found[0], INSTANCE) not in ("", uid):
        raise Unreachable(f"{worklist.name} answered with another workitem than was asked for")
    return _read(worklist, found[0])


def _read(worklist: Worklist, item: Item) -> Workitem:
    named = [_text(one, STUDY) for one in _items(item, INPUTS)]
    studies = {uid for uid in named or [_text(item, STUDY)] if is_uid(uid)}
    stations, codes = _items(item, STATIONS), _items(item, WORKITEM_CODES)
    wanted = (
        worklist.scheduled_station in (None, *(_text(one, CODE_VALUE) for one in stations)),
        worklist.label in (None, _text(item, LABEL)),
        worklist.workitem_code in (None, *(_text(one, CODE_VALUE) for one in codes)),
    )
    return Workitem(
        state=_text(item, STATE),
        study_instance_uid=studies.pop() if len(studies) == 1 else "",
        urgent=_text(item, PRIORITY) == "HIGH",
        ready=_text(item, READINESS) != "INCOMPLETE",
        asks_us=all(wanted),
        stations=stations,
        codes=codes,
    )


def change_state(worklist: Worklist, uid: str, state: str, transaction_uid: str, our_ae_title: str) -> None:
    """Move a workitem to a state under our Transaction UID (Section 11.7). Raises Refused or Unreachable.

    dcm4chee-arc knows this resource only with the AE title of who asks behind it.
    """
    body = json_body({TRANSACTION: _value("UI", transaction_uid), STATE: _value("CS", state)})
    try:
        _asked(worklist, "PUT", f"{uid}/state", body)
    except Refused as refused:
        if refused.status not in (404, 405):
            raise
        _asked(worklist, "PUT", f"{uid}/state/{our_ae_title}", body)


def report_progress(worklist: Worklist, uid: str, transaction_uid: str, percent: int, words: str) -> None:
    """Say how far we are (Section 11.6). Raises Refused or Unreachable."""
    progress = {"00741004": _value("DS", percent), "00741006": _value("ST", words)}
    _update(worklist, uid, transaction_uid, {PROGRESS: _value("SQ", progress)})


def report_performed(worklist: Worklist, uid: str, transaction_uid: str, of: Workitem, done: Performance) -> None:
    """Say what was done and where its results lie: what COMPLETED requires (PS3.4 Table CC.2.5-3).

    Raises Refused or Unreachable.
    """
    performed = {
        "00404028": _value("SQ", *(of.stations or [_coded(Code(done.station[:16], "L", done.station[:64]))])),
        "00404019": _value("SQ", *(of.codes or [_coded(IMAGE_PROCESSING)])),
        "00404050": _value("DT", _moment(done.started_at)),
        "00404051": _value("DT", _moment(done.ended_at)),
        "00404033": _value("SQ", *_outputs(done)),
    }
    progress = {"00741004": _value("DS", 100), "00741006": _value("ST", "results are delivered")}
    changes = {PERFORMED: _value("SQ", performed), PROGRESS: _value("SQ", progress)}
    _update(worklist, uid, transaction_uid, changes)


def report_reason(worklist: Worklist, uid: str, transaction_uid: str, code: Code, reason: str, at: datetime) -> None:
    """Say why a workitem is about to be CANCELED. Raises Refused or Unreachable."""
    progress = {
        "00404052": _value("DT", _moment(at)),
        "00741238": _value("LT", reason),
        "0074100E": _value("SQ", _coded(code)),
    }
    _update(worklist, uid, transaction_uid, {PROGRESS: _value("SQ", progress)})


def _update(worklist: Worklist, uid: str, transaction_uid: str, changes: Item) -> None:
    """Change attributes of a workitem that we hold; a sequence takes the place of the one that was there."""
    body = json_body({TRANSACTION: _value("UI", transaction_uid), **changes})
    _asked(worklist, "POST", uid, body, [("transaction", transaction_uid)])


def _asked(
    worklist: Worklist, method: str, path: str, body: Body | None = None, query: Sequence[tuple[str, str]] = ()
) -> Answer:
    answer = ask(worklist, worklist.url, method, f"/workitems/{path}", body, query)
    if answer.status in (200, 201, 204):
        return answer
    if answer.status in SAID:
        raise Refused(f"{worklist.name} answered {answer.status}: {SAID[answer.status]}", answer.status)
    raise refusal(worklist, answer.status, UPS)


def _outputs(done: Performance) -> list[Item]:
    """Return an item for each series at each destination (PS3.3 Table 10-3b)."""
    places = dict.fromkeys((one.destination, one.series_instance_uid) for one in done.outputs)
    return [
        {
            "0040E020": _value("CS", "DICOM"),
            STUDY: _value("UI", done.study_instance_uid),
            SERIES: _value("UI", series),
            "00081199": _value("SQ", *(_reference(one) for one in done.outputs if _place(one) == (name, series))),
            **_retrieval(done.destinations[name], done.study_instance_uid, series),
        }
        for name, series in places
        if name in done.destinations
    ]


def _place(one: Output) -> tuple[str, str]:
    return one.destination, one.series_instance_uid


def _reference(one: Output) -> Item:
    return {"00081150": _value("UI", one.sop_class_uid), "00081155": _value("UI", one.sop_instance_uid)}


def _retrieval(destination: Destination, study: str, series: str) -> Item:
    """Return how a series can be had of a destination."""
    if destination.url:
        where = f"{destination.url}/studies/{study}/series/{series}"
        return {"0040E025": _value("SQ", {"00081190": _value("UR", where)})}
    return {"0040E021": _value("SQ", {"00080054": _value("AE", destination.ae_title)})}


# --- DICOM JSON ---


def _value(vr: str, *values: object) -> Item:
    return {"vr": vr, "Value": list(values)}


def _coded(code: Code) -> Item:
    return {
        CODE_VALUE: _value("SH", code.value),
        "00080102": _value("SH", code.scheme),
        "00080104": _value("LO", code.meaning),
    }


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")


def _datasets(worklist: Worklist, answer: Answer) -> Sequence[Item]:
    """Return the datasets of an answer. Raises Unreachable where it holds none."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Unreachable(f"{worklist.name} answered {answer.status} with something that is no DICOM JSON")
    return found


def _values(item: Item, tag: str) -> list[Any]:
    element = item.get(tag)
    found = element.get("Value") if isinstance(element, dict) else None
    return found if isinstance(found, list) else []


def _text(item: Item, tag: str) -> str:
    """Return the first value as text, "" where there is none."""
    return next((str(one).strip() for one in _values(item, tag) if isinstance(one, str)), "")


def _items(item: Item, tag: str) -> list[Item]:
    return [one for one in _values(item, tag) if isinstance(one, dict)]

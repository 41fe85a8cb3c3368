"""A worklist for tests: workitems behind UPS-RS on loopback, with the state machine of PS3.4 Table CC.1.1-2.

A request that the table forbids is refused as PS3.18 Section 11 says, and so is a final state before its attributes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.web_server import Reply, Request, WebServer

TRANSACTION, STATE, INSTANCE = "00081195", "00741000", "00080018"
PERFORMED, PROGRESS = "00741216", "00741002"
REQUIRED_TO_COMPLETE = ("00404028", "00404019", "00404050", "00404051", "00404033")
REQUIRED_TO_CANCEL = ("00404052", "0074100E")
KEYS = {
    "ProcedureStepState": (STATE,),
    "WorklistLabel": ("00741202",),
    "ScheduledStationNameCodeSequence.CodeValue": ("00404025", "00080100"),
    "ScheduledWorkitemCodeSequence.CodeValue": ("00404018", "00080100"),
}


def value(vr: str, *values: object) -> dict[str, Any]:
    """Return an element of DICOM JSON."""
    return {"vr": vr, "Value": list(values)}


def code(text: str) -> dict[str, Any]:
    """Return a code sequence of one item."""
    item = {"00080100": value("SH", text), "00080102": value("SH", "L"), "00080104": value("LO", text)}
    return value("SQ", item)


def found(item: dict[str, Any], *path: str) -> list[Any]:
    """Return all values at a path through sequences."""
    values = item.get(path[0], {}).get("Value", [])
    return values if len(path) == 1 else [one for inner in values for one in found(inner, *path[1:])]


@dataclass
class Worklist:
    """Workitems, who holds them, and everything that was asked."""

    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)  # workitem → Transaction UID
    states: list[tuple[str, str]] = field(default_factory=list)  # (workitem, state) in the order of the changes
    progress: list[Any] = field(default_factory=list)  # percent, as reported
    before: list[tuple[str, int]] = field(default_factory=list)  # (method and end of path, status) instead of doing it
    after: list[tuple[str, int]] = field(default_factory=list)  # the same, once it is done: the answer is lost
    searches: bool = True  # False: it returns all, whatever is asked for
    titled: bool = False  # True: a state is changed at …/state/{AE title}, as in dcm4chee-arc

    def start(self) -> None:
        """Listen on loopback."""
        self.server = WebServer(self.answer)
        self.server.start()

    def stop(self) -> None:
        """Stop listening."""
        self.server.stop()

    @property
    def url(self) -> str:
        """Where it is."""
        return self.server.url

    def schedule(self, uid: str, study: str, **more: dict[str, Any]) -> None:
        """Add a workitem for our station."""
        self.items[uid] = {
            INSTANCE: value("UI", uid),
            STATE: value("CS", "SCHEDULED"),
            "00404025": code("CURIE"),
            "00404021": value("SQ", {"0020000D": value("UI", study)}),
            **{tag[1:]: element for tag, element in more.items()},
        }

    def state(self, uid: str) -> str:
        """Return the Procedure Step State."""
        return str(self.items[uid][STATE]["Value"][0])

    def take(self, uid: str, transaction: str = "9.9.9") -> None:
        """Let somebody else claim a workitem."""
        self.holders[uid] = transaction
        self._move(uid, "IN PROGRESS")

    def _move(self, uid: str, state: str) -> None:
        self.items[uid][STATE] = value("CS", state)
        self.states.append((uid, state))

    def answer(self, request: Request) -> Reply:
        """Do what is asked, or what the test wants instead."""
        told = f"{request.method} {request.path}"
        if (status := self._fault(self.before, told)) is not None:
            return status, b""
        reply = self._do(request)
        if (status := self._fault(self.after, told)) is not None:
            return status, b""
        return reply

    def _fault(self, faults: list[tuple[str, int]], told: str) -> int | None:
        for one in faults:
            method, _, end = one[0].partition(" ")
            if told.startswith(method) and told.endswith(end):
                faults.remove(one)
                return one[1]
        return None

    def _do(self, request: Request) -> Reply:
        _, _, path = request.path.partition("/workitems")
        uid, *rest = path.strip("/").split("/")
        if not uid:
            return self._search(dict(request.query))
        if uid not in self.items:
            return 404, b""
        if request.method == "GET" and not rest:
            return 200, [self.items[uid]]
        content = json.loads(request.content)
        if not isinstance(content, dict):
            return 400, b""
        if request.method == "POST" and not rest:
            return self._update(uid, content)
        if request.method == "PUT" and rest == (["state", "CURIE"] if self.titled else ["state"]):
            return self._change_state(uid, content)
        return 404, b""

    def _search(self, query: dict[str, str]) -> Reply:
        first, number = int(query.pop("offset", "0")), int(query.pop("limit", "1000"))
        if unknown := set(query) - set(KEYS):
            return 400, {"unknown": sorted(unknown)}
        wanted = query if self.searches else {}
        matching = [
            one for one in self.items.values() if all(text in found(one, *KEYS[key]) for key, text in wanted.items())
        ]
        page = matching[first : first + number]
        return (200, [{INSTANCE: one[INSTANCE]} for one in page]) if page else (204, b"")

    def _update(self, uid: str, content: dict[str, Any]) -> Reply:
        given = found(content, TRANSACTION)
        if STATE in content:
            return 400, b""
        if self.state(uid) in ("COMPLETED", "CANCELED") or (self.state(uid) == "SCHEDULED" and given):
            return 409, b""
        if self.state(uid) == "IN PROGRESS" and given != [self.holders[uid]]:
            return 400, b""
        self.items[uid] |= {tag: element for tag, element in content.items() if tag != TRANSACTION}
        self.progress += found(content, PROGRESS, "00741004")
        return 200, b""

    def _change_state(self, uid: str, content: dict[str, Any]) -> Reply:
        given, wanted = found(content, TRANSACTION), found(content, STATE)
        state = self.state(uid)
        if len(given) != 1 or len(wanted) != 1 or set(content) != {TRANSACTION, STATE}:
            return 400, b""
        if wanted == ["IN PROGRESS"]:
            if state != "SCHEDULED":
                return 409, b""
            self.holders[uid] = given[0]
        elif wanted not in (["COMPLETED"], ["CANCELED"]) or state != "IN PROGRESS":
            return 409, b""
        elif given != [self.holders[uid]]:
            return 400, b""
        elif not self._may_end(uid, wanted[0]):
            return 409, b""
        self._move(uid, wanted[0])
        return 200, b""

    def _may_end(self, uid: str, state: str) -> bool:
        """Tell whether the final state's attributes are there (PS3.4 Table CC.2.5-3)."""
        sequence, required = (
            (PERFORMED, REQUIRED_TO_COMPLETE) if state == "COMPLETED" else (PROGRESS, REQUIRED_TO_CANCEL)
        )
        return all(tag in one for one in found(self.items[uid], sequence) for tag in required) and bool(
            found(self.items[uid], sequence)
        )

"""An event of the chain → a DICOM audit message (PS3.15 A.5) in a syslog frame (RFC 5424, RFC 5425). Pure.

The patient's ID stands in messages about a study, as PS3.15 asks; it comes from the caller and is kept nowhere here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

SECURITY = 10  # syslog's facility "security/authorization" (RFC 5424, table 1)
NOTICE, WARNING = 5, 4
SUCCESS, MINOR = "0", "4"  # PS3.15 A.5.1, EventOutcomeIndicator
MESSAGE_ID = "DICOM+RFC3881"
BOM = b"\xef\xbb\xbf"
NAMES = {  # PS3.16 CID 400 to 402
    "110100": "Application Activity", "110120": "Application Start", "110121": "Application Stop",
    "110101": "Audit Log Used", "110103": "DICOM Instances Accessed", "110104": "DICOM Instances Transferred",
    "110105": "DICOM Study Deleted", "110110": "Patient Record", "110112": "Query", "110113": "Security Alert",
    "110114": "User Authentication", "110122": "Login", "110123": "Logout", "110131": "Software Configuration",
    "110132": "Use of Restricted Function", "110136": "Security Roles Changed",
    "110137": "User security Attributes Changed", "110150": "Application", "110152": "Destination Role ID",
    "110153": "Source Role ID", "110180": "Study Instance UID",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What an event is in the words of the standard."""

    code: str
    action: str  # C, R, U, D or E
    type_code: str = ""
    outcome: str = SUCCESS


KINDS = {
    "appliance_started": Kind("110100", "E", "110120"),
    "appliance_stopped": Kind("110100", "E", "110121"),
    "login": Kind("110114", "E", "110122"),
    "login_refused": Kind("110114", "E", "110122", MINOR),
    "logout": Kind("110114", "E", "110123"),
    "study_complete": Kind("110104", "C"),
    "results_written": Kind("110103", "C"),
    "result_delivered": Kind("110104", "C"),
    "result_rejected": Kind("110104", "C", outcome=MINOR),
    "identifiers_shown": Kind("110110", "R"),
    "study_forgotten": Kind("110105", "D"),
    "audit_exported": Kind("110101", "R"),
    "settings_changed": Kind("110113", "E", "110131"),
    "package_installed": Kind("110113", "E", "110131"),
    "package_active": Kind("110113", "E", "110131"),
    "package_change_asked": Kind("110113", "E", "110131"),
    "backup_written": Kind("110113", "E", "110132"),
    "backup_restored": Kind("110113", "E", "110132"),
    "account_added": Kind("110113", "E", "110137"),
    "account_removed": Kind("110113", "E", "110137"),
    "password_changed": Kind("110113", "E", "110137"),
    "role_changed": Kind("110113", "E", "110136"),
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where the message comes from, and what the catalogue knows beside the event."""

    appliance: str
    host: str
    process: str
    ae_title: str
    study: str = ""
    patient: str = ""  # Patient ID; empty: its images are gone
    source: str = ""  # AE title that sent the study
    address: str = ""  # of that
    count: int = 0  # images of the study


def message(event: Mapping[str, Any], place: Place) -> bytes | None:
    """Return a frame for an event as `audit.record_of` gives it, None for one that the standard has no message for."""
    kind = KINDS.get(event["kind"])
    if kind is None:
        return None
    root = Element("AuditMessage")
    _identify(root, kind, event)
    for who in _participants(event, place):
        _take_part(root, *who)
    source = SubElement(root, "AuditSourceIdentification", AuditSourceID=place.appliance)
    SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    _concern(root, kind, event, place)
    return framed(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True), kind, event, place)


def framed(content: bytes, kind: Kind, event: Mapping[str, Any], place: Place) -> bytes:
    """Return content behind a syslog header, with its length in octets before it (RFC 5425 section 4.3.1)."""
    priority = SECURITY * 8 + (NOTICE if kind.outcome == SUCCESS else WARNING)
    at = datetime.fromisoformat(event["at"]).astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    names = (_token(place.host, 255), "curie", _token(place.process, 128), MESSAGE_ID)
    line = f"<{priority}>1 {at} {' '.join(names)} - ".encode() + BOM + content
    return f"{len(line)} ".encode() + line


def _token(text: str, longest: int) -> str:
    """Return printable ASCII without a space, `-` where nothing is left."""
    return "".join(c for c in text if "!" <= c <= "~")[:longest] or "-"


def _coded(parent: Element, name: str, code: str, meaning: str = "", scheme: str = "DCM") -> None:
    meaning = meaning or NAMES[code]
    told = {"csd-code": code, "codeSystemName": scheme, "displayName": meaning, "originalText": meaning}
    SubElement(parent, name, told)


def _identify(root: Element, kind: Kind, event: Mapping[str, Any]) -> None:
    told = {"EventActionCode": kind.action, "EventDateTime": event["at"], "EventOutcomeIndicator": kind.outcome}
    found = SubElement(root, "EventIdentification", told)
    _coded(found, "EventID", kind.code)
    if kind.type_code:
        _coded(found, "EventTypeCode", kind.type_code)
    why = event["detail"].get("reason") or event["detail"].get("answer")
    if kind.outcome != SUCCESS and why:
        SubElement(found, "EventOutcomeDescription").text = str(why)


def _participants(event: Mapping[str, Any], place: Place) -> list[tuple[str, bool, str, str]]:
    """Return user, whether it asked, role and network address of all that take part."""
    told, here = event["detail"], (place.ae_title, place.host)
    if event["kind"] == "study_complete":
        return [(place.source or "unknown", True, "110153", place.address), (here[0], False, "110152", here[1])]
    if event["kind"] in ("result_delivered", "result_rejected"):
        return [(here[0], True, "110153", here[1]), (str(told["to"]), False, "110152", "")]
    who = told.get("who") or told.get("person")
    asked = [(str(who), True, "", str(told.get("address", "")))] if who else []
    return [*asked, (here[0], not who, "110150", here[1])]


def _take_part(root: Element, user: str, asked: bool, role: str, point: str) -> None:
    told = {"UserID": user, "UserIsRequestor": str(asked).lower()}
    if point:
        by_address = point.replace(".", "").isdigit() or ":" in point
        told |= {"NetworkAccessPointID": point, "NetworkAccessPointTypeCode": "2" if by_address else "1"}
    found = SubElement(root, "ActiveParticipant", told)
    if role:
        _coded(found, "RoleIDCode", role)


def _concern(root: Element, kind: Kind, event: Mapping[str, Any], place: Place) -> None:
    """Add what it is about: a study with its patient, the audit log, or what was changed."""
    told = event["detail"]
    if place.study:
        found = _thing(root, place.study, "2", "3", ("110180", "", "DCM"), "study")
        if place.count:
            described = SubElement(found, "ParticipantObjectDescription")
            SubElement(described, "SOPClass", NumberOfInstances=str(place.count))
        _thing(root, place.patient or "unknown", "1", "1", ("2", "Patient Number", "RFC-3881"), "patient")
    elif kind.code == "110101":
        _thing(root, f"curie:{place.appliance}", "2", "13", ("12", "URI", "RFC-3881"), "Security Audit Log")
    elif kind.code == "110113":
        named = told.get("package") and f"{told['package']}@{told.get('version', '')}"
        what = named or told.get("name") or ",".join(told.get("tables", ())) or event["kind"]
        _thing(root, str(what), "2", "13", ("12", "URI", "RFC-3881"), event["kind"])


def _thing(root: Element, ID: str, sort: str, role: str, coded: tuple[str, str, str], name: str) -> Element:
    told = {"ParticipantObjectID": ID, "ParticipantObjectTypeCode": sort, "ParticipantObjectTypeCodeRole": role}
    found = SubElement(root, "ParticipantObjectIdentification", told)
    code, meaning, scheme = coded
    _coded(found, "ParticipantObjectIDTypeCode", code, meaning, scheme)
    SubElement(found, "ParticipantObjectName").text = name
    return found

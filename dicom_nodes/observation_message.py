"""An HL7 v2.5.1 message of a job's findings: ORU^R01, one for a job, preliminary until a person has read it.

Who the patient is comes from the stored report, as the source wrote it; the catalogue names nobody. It must never
write a log: what is made here names patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from appliance.errors import Missing
from appliance.finding import PERCENT, Code
from dicom_nodes import codes
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.values import text

VERSION = "2.5.1"
CHARACTER_SET = "UNICODE UTF-8"  # HL7 table 0211
STUDY_UID = Code("110180", "DCM", "Study Instance UID")
ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
PRELIMINARY, NOT_OBTAINED = "P", "X"  # HL7 tables 0123 and 0085
NAMELESS = "^^^^^^U"  # HL7 table 0200: unspecified; PID-5 may not be empty
STAT, ROUTINE = "S^Stat^HL70485", "R^Routine^HL70485"


@dataclass(frozen=True)
class Envelope:
    """Who sends a message to whom, and under which id."""

    control_id: str  # the same however often it is sent
    facility: str
    to_application: str
    to_facility: str
    at: datetime


@dataclass(frozen=True)
class Observed:
    """What a job found."""

    study_instance_uid: str
    accession_number: str
    service: Code  # the package
    urgent: bool
    tells: str  # why there is no result, or ""
    findings: Sequence[Mapping[str, Any]]
    ended_at: datetime


def message(report: Path, observed: Observed, envelope: Envelope) -> str:
    """Return the message in ER7, its segments ended by carriage returns. Raises Missing where the report is gone."""
    patient = _patient(report)
    segments = [
        _header(envelope),
        _identification(patient),
        *_order(patient, observed),
        *(_segment("OBX", {1: str(n), **fields}) for n, fields in enumerate(_observations(observed), 1)),
    ]
    return "".join(f"{one}\r" for one in segments)


@lenient()
def _patient(report: Path) -> Dataset:
    """Return who the report is about. Raises Missing."""
    try:
        return dcmread(report, stop_before_pixels=True)
    except OSError:
        raise Missing("the stored report is gone; the message cannot name its patient") from None


def escaped(value: str) -> str:
    """Return text in which nothing is taken for a delimiter (HL7 v2.5.1 Section 2.7)."""
    plain = "".join(" " if one < " " or one == "\x7f" else one for one in value)
    return "".join(ESCAPES.get(one, one) for one in plain).strip()


def _segment(name: str, fields: Mapping[int, str]) -> str:
    """Return one segment; fields by their number, already escaped."""
    return "|".join([name, *(fields.get(n, "") for n in range(1, max(fields) + 1))])


def _coded(code: Code) -> str:
    return "^".join(escaped(part) for part in (code.value, code.meaning, code.scheme))


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")


def _day(value: str) -> str:
    """Return a date (VR DA) as HL7 has it, nothing where it is none."""
    return value if len(value) == 8 and value.isascii() and value.isdigit() else ""


def _header(envelope: Envelope) -> str:
    fields = {
        2: "PETITE-CURIE",
        3: escaped(envelope.facility),
        4: escaped(envelope.to_application),
        5: escaped(envelope.to_facility),
        6: _moment(envelope.at),
        8: "ORU^R01^ORU_R01",
        9: envelope.control_id,
        10: "P",
        11: VERSION,
        17: CHARACTER_SET,
    }
    return _segment("MSH", {1: "^~\\&", **fields})  # MSH-1 is the first separator itself


def _identification(patient: Dataset) -> str:
    issuer = escaped(text(patient, 0x00100021))
    fields = {
        1: "1",
        3: f"{escaped(text(patient, 0x00100020))}^^^{issuer}^PI",
        5: _name(text(patient, 0x00100010)),
        7: _day(text(patient, 0x00100030)),
        8: {"M": "M", "F": "F", "O": "O"}.get(text(patient, 0x00100040), "U"),
    }
    return _segment("PID", fields)


def _name(value: str) -> str:
    """Return a DICOM person name (PS3.5 Section 6.2.1) as XPN, a repetition for each way in which it is written."""
    written = []
    for group, way in zip(value.split("="), ("A", "I", "P"), strict=False):
        if group.strip("^ "):
            family, given, middle, prefix, suffix = ([escaped(one) for one in group.split("^")] + [""] * 5)[:5]
            written.append("^".join((family, given, middle, suffix, prefix, "", "L", way)))
    return "~".join(written) or NAMELESS


def _order(patient: Dataset, observed: Observed) -> Iterator[str]:
    accession = escaped(text(patient, 0x00080050) or observed.accession_number)
    request = {
        1: "1",
        3: accession,  # filler order number
        4: _coded(observed.service),
        7: _day(text(patient, 0x00080020)),
        18: accession,
        22: _moment(observed.ended_at),
        25: PRELIMINARY,
        27: "^^^^^S" if observed.urgent else "^^^^^R",
    }
    yield _segment("ORC", {1: "RE", 3: accession})
    yield _segment("OBR", request)
    yield _segment("TQ1", {1: "1", 9: STAT if observed.urgent else ROUTINE})


def _observations(observed: Observed) -> Iterator[dict[int, str]]:
    """Yield the fields of each OBX, without its number. OBX-4 counts the findings."""
    for n, finding in enumerate(observed.findings, 1):
        said = codes.PRESENT if finding.get("present", True) else codes.ABSENT
        yield _observation("CWE", _named(finding), _coded(said), n)
        for name, value, unit in _numbers(finding):
            yield {**_observation("NM", _coded(name), f"{value:.10g}", n), 6: _coded(unit)}
    if observed.tells:
        told = escaped(f"No result could be made: {observed.tells}")
        yield {**_observation("TX", _coded(codes.COMMENT), told), 11: NOT_OBTAINED}
    yield _observation("ST", _coded(STUDY_UID), escaped(observed.study_instance_uid))


def _named(finding: Mapping[str, Any]) -> str:
    """Return the finding's code, and as the alternate one the name that tells it from others of this code."""
    return _coded(Code(**finding["code"])) + "^" + _coded(Code(finding["name"], "L", finding["name"]))


def _numbers(finding: Mapping[str, Any]) -> Iterator[tuple[Code, float, Code]]:
    """Yield name, value and UCUM unit of each number that the report has of a finding."""
    for one in finding["measurements"]:
        yield Code(one["code"], one["scheme"], one["name"]), one["value"], Code(one["unit"], "UCUM", one["unit"])
    if finding.get("probability") is not None:
        yield codes.CERTAINTY, 100 * finding["probability"], PERCENT


def _observation(kind: str, what: str, value: str, group: int = 0) -> dict[int, str]:
    return {2: kind, 3: what, 4: str(group) if group else "", 5: value, 11: PRELIMINARY}


def check_there() -> None:
    """Raise Missing where the library that checks messages is not installed."""
    if find_spec("hl7apy") is None:
        raise Missing("HL7 messages need hl7apy: pip install 'petite-curie[hl7]'; they wait until it is there")


def problem(content: str) -> str:
    """Return why a message is none by hl7apy's reading of the standard, "" where it is one. Raises Missing."""
    check_there()
    from hl7apy.exceptions import HL7apyException
    from hl7apy.parser import parse_message

    try:
        parse_message(content, find_groups=True).validate()
    except HL7apyException as error:
        return type(error).__name__
    return ""

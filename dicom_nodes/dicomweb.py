"""Our STOW-RS user agent (PS3.18 Section 10.5): stored bytes of results to a DICOMweb address, streamed from disk.

| answer                          | of an instance means                                                |
|---------------------------------|---------------------------------------------------------------------|
| 200, 202 and it is named stored | stored, with or without a warning                                   |
| it is named failed              | stored if 0111 (a duplicate); not accepted if 0122 or C122 (class,  |
|                                 | transfer syntax); A7xx may pass; everything else is a refusal       |
| 200, 202 and it is not named    | nothing: sent again                                                 |
| 409 and it is not named         | a refusal                                                           |
| 408, 429, 5xx                   | may pass                                                            |

It must never alter what it sends, nor believe of one instance what was said of another.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import DeliveryFailed, NotAccepted, Refused, Unreachable
from appliance.settings import Destination
from dicom_nodes.contexts import is_uid
from dicom_nodes.sender import DUPLICATE
from dicom_nodes.store_transaction import CLASS_NOT_SUPPORTED, SYNTAX_NOT_SUPPORTED
from dicom_nodes.stow import CLASS_UID, FAILED_SOPS, FAILURE_REASON, INSTANCE_UID, REFERENCED_SOPS
from dicom_nodes.web import MAY_PASS, Answer, Body, ask, refusal

MOST_INSTANCES, MOST_BYTES = 32, 256 * 1024 * 1024  # of one request; a larger instance goes alone
PIECE = 1024 * 1024
STORED, SOME_STORED, CONFLICT = 200, 202, 409
PERHAPS_OF_ONE = (400, 409, 413, 415)  # of a request as a whole, where one instance may be the cause
WARNING_REASON = "00081196"
STOW = "STOW-RS"
SEARCH = "let the PACS accept QIDO-RS at that address, or set find = false"


@dataclass(frozen=True)
class Shipment:
    """One instance and the file that holds it."""

    sop_class_uid: str
    sop_instance_uid: str
    path: Path


Verdict = str | DeliveryFailed  # the answer in words where it is stored, else what to do about it


def store(destination: Destination, shipments: Iterable[Shipment]) -> Iterator[tuple[Shipment, Verdict]]:
    """Send instances, several to a request, and yield what was answered of each. Raises Unreachable."""
    for batch in _batches(shipments):
        verdicts = _store_together(destination, batch)
        if verdicts is None:
            for one in batch:
                alone = _store_together(destination, [one]) or {}
                yield one, alone[one.sop_instance_uid]
        else:
            yield from ((one, verdicts[one.sop_instance_uid]) for one in batch)


def _batches(shipments: Iterable[Shipment]) -> Iterator[list[Shipment]]:
    batch: list[Shipment] = []
    size = 0
    for one in shipments:
        bytes_ = one.path.stat().st_size
        if batch and (len(batch) >= MOST_INSTANCES or size + bytes_ > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += bytes_
    if batch:
        yield batch


def _store_together(destination: Destination, batch: Sequence[Shipment]) -> dict[str, Verdict] | None:
    """Send one request; None where it was refused as a whole and single instances may still be taken."""
    answer = ask(destination, destination.url or "", "POST", "/studies", multipart([one.path for one in batch]))
    said = _said(answer)
    if len(batch) > 1 and answer.status in PERHAPS_OF_ONE and said is None:
        return None
    return {one.sop_instance_uid: judge(destination, one, answer.status, said) for one in batch}


def multipart(paths: Sequence[Path]) -> Body:
    """Return files as the parts of multipart/related (PS3.18 Section 8.6.1.2)."""
    boundary = uuid.uuid4().hex
    head = f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    close = f"\r\n--{boundary}--\r\n".encode()
    length = sum(len(head) + path.stat().st_size for path in paths) + len(close)
    return Body(
        length, _pieces(paths, head, close), f'multipart/related; type="application/dicom"; boundary={boundary}'
    )


def _pieces(paths: Sequence[Path], head: bytes, close: bytes) -> Iterator[bytes]:
    for path in paths:
        yield head
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                yield piece
    yield close


@dataclass(frozen=True)
class Said:
    """A Store Instances Response: SOP Instance UID → (SOP Class UID, reason)."""

    stored: dict[str, tuple[str, int]]
    failed: dict[str, tuple[str, int]]


def _said(answer: Answer) -> Said | None:
    """Return what the response names (PS3.18 Table I.2-1); None where it is no such response."""
    if answer.status not in (STORED, SOME_STORED, CONFLICT):
        return None
    try:
        found = answer.json()
        dataset = found[0] if isinstance(found, list) else found
        said = Said(_named(dataset, REFERENCED_SOPS, WARNING_REASON), _named(dataset, FAILED_SOPS, FAILURE_REASON))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return said if said.stored or said.failed else None


def _named(dataset: dict[str, Any], sequence: str, reason: str) -> dict[str, tuple[str, int]]:
    found = {}
    for item in dataset.get(sequence, {}).get("Value", []):
        uid = str(_first(item, INSTANCE_UID) or "")
        if is_uid(uid):
            found[uid] = (str(_first(item, CLASS_UID) or ""), int(_first(item, reason) or 0))
    return found


def _first(item: dict[str, Any], tag: str) -> Any:
    return next(iter(item.get(tag, {}).get("Value", [])), None)


def judge(destination: Destination, one: Shipment, status: int, said: Said | None) -> Verdict:
    """Return what a response says of one instance."""
    if said is None and status in (STORED, SOME_STORED):
        return Unreachable(f"{destination.name} answered {status} without saying what it stored")
    if said is None:
        return refusal(destination, status, STOW)
    if one.sop_instance_uid in said.failed:
        return _failure(destination, said.failed[one.sop_instance_uid][1])
    if one.sop_instance_uid not in said.stored:
        return Unreachable(f"{destination.name} answered {status} and did not say what became of this instance")
    sop_class, warning = said.stored[one.sop_instance_uid]
    if status == CONFLICT or (sop_class and sop_class != one.sop_class_uid):
        return Unreachable(f"{destination.name} answered {status} and contradicts itself about this instance")
    return f"{status}, warning 0x{warning:04X}" if warning else str(status)


def _failure(destination: Destination, reason: int) -> Verdict:
    """Return what a failure reason means (PS3.18 Table I.2-2)."""
    if reason == DUPLICATE:
        return f"0x{reason:04X}"
    if reason in (CLASS_NOT_SUPPORTED, SYNTAX_NOT_SUPPORTED):
        return NotAccepted(f"{destination.name} does not accept this kind of object (0x{reason:04X})", reason)
    if reason >> 8 == 0xA7:
        return Unreachable(f"{destination.name} is out of resources (0x{reason:04X})")
    return Refused(f"{destination.name} did not store it: failure reason 0x{reason:04X}", reason)


def probe(destination: Destination) -> str:
    """Ask for one study, and store nothing: returns the answer in words. Raises Refused or Unreachable.

    Where `find = true` it must answer a search (QIDO-RS); else any answer of the address will do.
    """
    answer = ask(destination, destination.url or "", "GET", "/studies", query=[("limit", "1")])
    if answer.status in (200, 204, 206):
        return f"answers QIDO-RS with {answer.status}"
    if destination.find and answer.status not in MAY_PASS:
        raise Refused(f"{destination.name} answered QIDO-RS with {answer.status}: {SEARCH}", answer.status)
    if answer.status not in (400, 404, 405, 406, 501):
        raise refusal(destination, answer.status, STOW)
    answer = ask(destination, destination.url or "", "OPTIONS", "/studies")
    if answer.status in (200, 204) or "POST" in answer.headers.get("allow", ""):
        return f"answers OPTIONS with {answer.status}"
    raise refusal(destination, answer.status, STOW)

"""Presentation contexts: what the receiver accepts, and in which transfer syntax. Tables and one pure rule.

Rule for a storage context (PS3.8 Section 9.3.3.2 asks for one transfer syntax): the sender's first choice that is
not deflated, so that it sends what it has; where that is Implicit VR Little Endian and the sender offers Explicit
VR Little Endian too, the latter. Deflated syntaxes alone are refused: 1 MB of them may be 1 GB of pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import StrEnum

from dicom_nodes.pdu import ContextAnswer, ProposedContext

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED = frozenset({
    "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205", "1.2.840.10008.1.2.8.1",
})  # fmt: skip
VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
MPPS = "1.2.840.10008.3.1.2.3.3"  # Modality Performed Procedure Step
IAN = "1.2.840.10008.5.1.4.33"  # Instance Availability Notification
UNCOMPRESSED = (EXPLICIT_LE, IMPLICIT_LE, "1.2.840.10008.1.2.2")

# SOP classes that hold no image of the patient: they are kept, and open no input set
DOCUMENT_PREFIXES = (
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key objects, dose reports
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.66",  # raw, registrations, segmentations, surfaces
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated documents
    "1.2.840.10008.5.1.4.1.1.9.",  # waveforms
    "1.2.840.10008.5.1.4.1.1.481.",  # radiotherapy objects
    "1.2.840.10008.5.1.4.1.1.30",  # parametric map
)

# standard storage classes outside the arc of storage: those without a patient, and radiotherapy instructions
OTHER_STORAGE = frozenset({
    "1.2.840.10008.5.1.4.34.7", "1.2.840.10008.5.1.4.34.10", "1.2.840.10008.5.1.4.38.1", "1.2.840.10008.5.1.4.39.1",
    "1.2.840.10008.5.1.4.43.1", "1.2.840.10008.5.1.4.44.1", "1.2.840.10008.5.1.4.45.1",
    "1.2.840.10008.5.1.1.27", "1.2.840.10008.5.1.1.29", "1.2.840.10008.5.1.1.30",  # retired: print, hardcopy
})  # fmt: skip
STANDARD, STORAGE_ARC = "1.2.840.10008.", "1.2.840.10008.5.1.4.1.1."

# results of a proposed context (PS3.8 Table 9-18)
ACCEPTED, USER_REJECTION, ABSTRACT_SYNTAX_UNSUPPORTED, TRANSFER_SYNTAXES_UNSUPPORTED = 0, 1, 3, 4


class Service(StrEnum):
    """What a SOP class is to our receiver, always as SCP of the service's notifications or objects."""

    VERIFICATION = "Verification"
    STORAGE = "Storage"
    COMMITMENT = "Storage Commitment (its reports)"
    PROCEDURE_STEP = "Modality Performed Procedure Step"
    AVAILABILITY = "Instance Availability Notification"
    NONE = "none"


SERVICES = {
    VERIFICATION: Service.VERIFICATION,
    STORAGE_COMMITMENT: Service.COMMITMENT,
    MPPS: Service.PROCEDURE_STEP,
    IAN: Service.AVAILABILITY,
}

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_NAME = re.compile(r"[0-9A-Za-z]+(\.[0-9A-Za-z]+)*")


def is_uid(text: str) -> bool:
    """Return whether `text` is a UID as far as we ask: digits and dots, at most 64 (leading zeros are kept)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def may_be_kept(sop_instance_uid: str) -> bool:
    """Return whether an instance of this UID is taken in: a UID, or one that a de-identifier made of letters too.

    The indexer sets the latter aside with its reason; a path, a line or a shell is refused at the door.
    """
    return len(sop_instance_uid) <= 64 and _NAME.fullmatch(sop_instance_uid) is not None


def choose_syntax(offered: Sequence[str]) -> str | None:
    """Return the transfer syntax to accept of those a storage context offers, or None to refuse it."""
    allowed = [syntax for syntax in offered if syntax not in DEFLATED]
    if not allowed:
        return None
    if allowed[0] == IMPLICIT_LE and EXPLICIT_LE in allowed:
        return EXPLICIT_LE
    return allowed[0]


def service_of(sop_class_uid: str) -> Service:
    """Return which of our services a SOP class belongs to; a private class is taken for a storage class."""
    if sop_class_uid in SERVICES:
        return SERVICES[sop_class_uid]
    if not sop_class_uid.startswith(STANDARD):
        return Service.STORAGE if sop_class_uid else Service.NONE
    stored = sop_class_uid.startswith(STORAGE_ARC) or sop_class_uid in OTHER_STORAGE
    return Service.STORAGE if stored else Service.NONE


def answer_context(proposed: ProposedContext, allowed: Callable[[Service], bool]) -> ContextAnswer:
    """Return what the receiver says of one proposed context, by the tables above."""
    service = service_of(proposed.abstract_syntax)
    first = next((one for one in proposed.transfer_syntaxes if one), IMPLICIT_LE)  # a refusal's is not significant
    if service is Service.NONE:
        return ContextAnswer(proposed.id, ABSTRACT_SYNTAX_UNSUPPORTED, first)
    if not allowed(service):
        return ContextAnswer(proposed.id, USER_REJECTION, first)
    offered = [one for one in proposed.transfer_syntaxes if one]
    if service is not Service.STORAGE:  # short messages, read by us: two syntaxes suffice
        offered = [one for one in offered if one in (EXPLICIT_LE, IMPLICIT_LE)]
    chosen = choose_syntax(offered)
    if chosen is None:
        return ContextAnswer(proposed.id, TRANSFER_SYNTAXES_UNSUPPORTED, first)
    return ContextAnswer(proposed.id, ACCEPTED, chosen)


def answer_roles(
    proposed: dict[str, tuple[bool, bool]], accepted: Sequence[ProposedContext]
) -> dict[str, tuple[bool, bool]]:
    """Return the SCU and SCP roles granted to the requestor (PS3.7 Annex D.3.3.4), for accepted contexts only.

    It may be SCU of what we serve, but of Storage Commitment SCP alone: that is how a PACS brings its reports.
    """
    classes = {one.abstract_syntax for one in accepted}
    ours = {uid: roles for uid, roles in proposed.items() if uid in classes}
    reports = STORAGE_COMMITMENT
    return {uid: (scu and uid != reports, scp and uid == reports) for uid, (scu, scp) in ours.items()}


def is_document(sop_class_uid: str) -> bool:
    """Return whether instances of this SOP class hold no image of the patient."""
    return sop_class_uid.startswith(DOCUMENT_PREFIXES)

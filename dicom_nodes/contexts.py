"""Presentation contexts: what the receiver accepts, and in which transfer syntax. Tables and one pure rule.

Rule for a storage context (PS3.8 Section 9.3.3.2 asks for one transfer syntax): the sender's first choice that is
not deflated, so that it sends what it has; where that is Implicit VR Little Endian and the sender offers Explicit
VR Little Endian too, the latter. Deflated syntaxes alone are refused: 1 MB of them may be 1 GB of pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.8.1"})
VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
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

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(text: str) -> bool:
    """Return whether `text` is a UID as far as we ask: digits and dots, at most 64 (leading zeros are kept)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def choose_syntax(offered: Sequence[str]) -> str | None:
    """Return the transfer syntax to accept of those a storage context offers, or None to refuse it."""
    allowed = [syntax for syntax in offered if syntax not in DEFLATED]
    if not allowed:
        return None
    if allowed[0] == IMPLICIT_LE and EXPLICIT_LE in allowed:
        return EXPLICIT_LE
    return allowed[0]


def is_document(sop_class_uid: str) -> bool:
    """Return whether instances of this SOP class hold no image of the patient."""
    return sop_class_uid.startswith(DOCUMENT_PREFIXES)

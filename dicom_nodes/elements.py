"""Single elements as bytes, Explicit VR Little Endian, for what a result has a thousand times.

A dataset object for each frame or reference costs seconds, bytes cost milliseconds. This module must never
check or choose: it encodes what it is given, in the order it is given.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from pydicom import DataElement, Dataset
from pydicom.multival import MultiValue

from appliance.finding import Code

LONG_LENGTH = (b"OB", b"OW", b"SQ", b"UT", b"UC", b"UR", b"OF", b"OD", b"OL", b"UN")
NUMBERS = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "FL": "<f", "FD": "<d"}
TEXTS = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
BYTES = ("OB", "OW", "OF", "OD", "OL", "UN")


def references(instances: Iterable[tuple[str, str]]) -> list[bytes]:
    """Return items that refer to (SOP Class UID, SOP Instance UID), UIDs letter for letter."""
    return [text(0x00081150, b"UI", kind) + text(0x00081155, b"UI", uid) for kind, uid in instances]


def coded(code: Code) -> bytes:
    """Return the item of a code sequence (PS3.3 Table 8.8-1)."""
    value, scheme = text(0x00080100, b"SH", code.value), text(0x00080102, b"SH", code.scheme)
    return value + scheme + text(0x00080104, b"LO", code.meaning)


def dataset(ds: Dataset) -> bytes:
    """Return a dataset of ours as pydicom writes it, without its checks; VRs that results do not have are refused."""
    return b"".join(_element(ds[tag]) for tag in sorted(ds.keys()))


def _element(one: DataElement) -> bytes:
    vr, tag, value = str(one.VR), int(one.tag), one.value
    if vr == "SQ":
        return sequence(tag, *(dataset(item) for item in value))
    values = [] if value is None or value == "" else list(value) if isinstance(value, MultiValue | list) else [value]
    if vr in NUMBERS:
        return element(tag, vr.encode(), b"".join(struct.pack(NUMBERS[vr], one) for one in values))
    if vr == "AT":
        return element(tag, b"AT", b"".join(struct.pack("<HH", int(one) >> 16, int(one) & 0xFFFF) for one in values))
    if vr in BYTES:
        return element(tag, vr.encode(), bytes(value or b"") + b"\0" * (len(value or b"") % 2))
    if vr not in TEXTS:
        raise ValueError(f"a result has no element of VR {vr}")
    return text(tag, vr.encode(), "\\".join(_as_text(one) for one in values))


def _as_text(value: object) -> str:
    """Return one value as it was given where it is a number that was text before."""
    original = getattr(value, "original_string", None)
    return original if isinstance(original, str) else str(value)


def text(tag: int, vr: bytes, value: str) -> bytes:
    """Return a text element, padded to even length (PS3.5 Section 6.2)."""
    encoded = value.encode("utf-8")
    return element(tag, vr, encoded + (b"\0" if vr == b"UI" else b" ") * (len(encoded) % 2))


def sequence(tag: int, *items: bytes) -> bytes:
    """Return a sequence of items, all lengths defined (PS3.5 Section 7.5)."""
    head = b"\xfe\xff\x00\xe0"
    return element(tag, b"SQ", b"".join(head + struct.pack("<I", len(item)) + item for item in items))


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Return one element in Explicit VR Little Endian (PS3.5 Section 7.1.2); the value has even length."""
    return head(tag, vr, len(value)) + value


def head(tag: int, vr: bytes, length: int) -> bytes:
    """Return what stands before the value of an element of so many bytes."""
    number = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if vr in LONG_LENGTH:
        return number + vr + b"\0\0" + struct.pack("<I", length)
    return number + vr + struct.pack("<H", length)


def in_pieces(tag: int, vr: bytes, length: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield one element whose value of `length` bytes comes piece by piece, padded to even length."""
    yield head(tag, vr, length + length % 2)
    yield from pieces
    yield b"\0" * (length % 2)

"""Single elements as bytes, Explicit VR Little Endian, for what a result has a thousand times.

A dataset object for each frame or reference costs seconds, bytes cost milliseconds. This module must never
check or choose: it encodes what it is given, in the order it is given.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from appliance.finding import Code

LONG_LENGTH = (b"OB", b"OW", b"SQ")


def references(instances: Iterable[tuple[str, str]]) -> list[bytes]:
    """Return items that refer to (SOP Class UID, SOP Instance UID), UIDs letter for letter."""
    return [text(0x00081150, b"UI", kind) + text(0x00081155, b"UI", uid) for kind, uid in instances]


def coded(code: Code) -> bytes:
    """Return the item of a code sequence (PS3.3 Table 8.8-1)."""
    value, scheme = text(0x00080100, b"SH", code.value), text(0x00080102, b"SH", code.scheme)
    return value + scheme + text(0x00080104, b"LO", code.meaning)


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
    number = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if vr in LONG_LENGTH:
        return number + vr + b"\0\0" + struct.pack("<I", len(value)) + value
    return number + vr + struct.pack("<H", len(value)) + value

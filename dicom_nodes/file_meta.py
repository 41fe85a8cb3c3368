"""What the first bytes of a Part 10 file say: its File Meta Information, and whose study it is. Read by hand.

For a door that must know both before the file is whole, from a peer nobody knows: no length is believed beyond the
bytes that are there, nothing is decoded, and whatever is wrong is an InstanceRefused or no answer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from appliance.errors import InstanceRefused
from dicom_nodes.contexts import IMPLICIT_LE

PREAMBLE = 132  # bytes, with the four that say DICM
BIG_ENDIAN = "1.2.840.10008.1.2.2"
GROUP_LENGTH, SOP_CLASS, SOP_INSTANCE, TRANSFER_SYNTAX = 0x00020000, 0x00020002, 0x00020003, 0x00020010
STUDY_INSTANCE_UID = 0x0020000D
ITEM_END, SEQUENCE_END = 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF  # length
LONG_LENGTH = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)  # PS3.5 Section 7.1.2
MOST_NESTED = 64  # sequences and items of undefined length


@dataclass(frozen=True)
class FileMeta:
    """What the File Meta Information says; `length` bytes come before the data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    length: int


@dataclass(frozen=True)
class _Element:
    """The head of one element; its value begins at `at`."""

    tag: int
    vr: bytes
    length: int
    at: int


class _Odd(Exception):
    """No element begins here."""


def read_meta(head: bytes | bytearray) -> FileMeta | None:
    """Return the File Meta Information (PS3.10 Section 7.1), or nothing while more bytes are needed.

    It ends where another group begins, or where its group length says so. Raises InstanceRefused.
    """
    if head[128:PREAMBLE] != b"DICM"[: max(0, len(head) - 128)]:
        raise _unreadable("not a DICOM file (PS3.10)")
    found: dict[int, str] = {}
    at, end = PREAMBLE, 0
    try:
        while at != end or TRANSFER_SYNTAX not in found:
            one = _element(head, at, implicit=False, order="<")
            if one is None or (one.tag >> 16 == 2 and one.at + one.length > len(head)):
                return None
            if one.tag >> 16 != 2:
                break
            at = one.at + one.length
            found[one.tag] = _uid(head[one.at : at])
            if one.tag == GROUP_LENGTH and one.length == 4:
                end = at + int.from_bytes(head[one.at : at], "little")
    except _Odd:
        if TRANSFER_SYNTAX not in found:  # else: a data set that does not begin like a group of the meta information
            raise _unreadable("its File Meta Information cannot be read") from None
    if not all(found.get(tag) for tag in (SOP_CLASS, SOP_INSTANCE, TRANSFER_SYNTAX)):
        raise _unreadable("its File Meta Information names no SOP class, instance or transfer syntax")
    return FileMeta(found[SOP_CLASS], found[SOP_INSTANCE], found[TRANSFER_SYNTAX], at)


def study_of(dataset: bytes | bytearray, transfer_syntax_uid: str) -> str | None:
    """Return the Study Instance UID of a data set of which the first bytes are given.

    Nothing: they end before it comes. Empty: there is none, or the data set cannot be followed so far.
    """
    order = ">" if transfer_syntax_uid == BIG_ENDIAN else "<"
    nested = [transfer_syntax_uid == IMPLICIT_LE]  # of each open level: is it Implicit VR
    at = 0
    try:
        while (one := _element(dataset, at, nested[-1], order)) is not None:
            if len(nested) == 1 and one.tag >= STUDY_INSTANCE_UID:
                return _value(dataset, one) if one.tag == STUDY_INSTANCE_UID else ""
            at = _follow(one, nested)
    except _Odd:
        return ""
    return None


def _value(dataset: bytes | bytearray, one: _Element) -> str | None:
    end = one.at + one.length
    if one.length > 66:
        return ""
    return _uid(dataset[one.at : end]) if end <= len(dataset) else None


def _follow(one: _Element, nested: list[bool]) -> int:
    """Return where the next element begins; what has no length is entered (PS3.5 Section 7.5, 6.2.2 for UN)."""
    if one.tag in (ITEM_END, SEQUENCE_END):
        if len(nested) == 1:
            raise _Odd
        nested.pop()
    elif one.length == UNDEFINED:
        if len(nested) > MOST_NESTED:
            raise _Odd
        nested.append(nested[-1] or one.vr == b"UN")
        return one.at
    return one.at + one.length


def _element(content: bytes | bytearray, at: int, implicit: bool, order: str) -> _Element | None:
    """Return the element that begins at `at`, or nothing when its head is not there. Raises _Odd."""
    if len(content) - at < 8:
        return None
    group, number, length = struct.unpack_from(f"{order}HHI", content, at)
    tag = group << 16 | number
    if implicit or group == 0xFFFE:
        return _Element(tag, b"", length, at + 8)
    vr = bytes(content[at + 4 : at + 6])
    if not (vr.isalpha() and vr.isupper()):
        raise _Odd
    if vr not in LONG_LENGTH:
        return _Element(tag, vr, struct.unpack_from(f"{order}H", content, at + 6)[0], at + 8)
    if len(content) - at < 12:
        return None
    return _Element(tag, vr, struct.unpack_from(f"{order}I", content, at + 8)[0], at + 12)


def _uid(value: bytes | bytearray) -> str:
    return value.rstrip(b"\0 ").decode("latin-1")


def _unreadable(sentence: str) -> InstanceRefused:
    return InstanceRefused(sentence, InstanceRefused.UNREADABLE)

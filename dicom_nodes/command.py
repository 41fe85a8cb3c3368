"""Command sets of DIMSE messages (PS3.7 Section 6.3.1, Annex E): Implicit VR Little Endian, by hand for speed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

# command fields (PS3.7 Table E.1-1)
C_STORE, C_ECHO, C_CANCEL = 0x0001, 0x0030, 0x0FFF
N_EVENT_REPORT, N_SET, N_CREATE = 0x0100, 0x0120, 0x0140
RESPONSE = 0x8000
NO_DATASET = 0x0101
MAXIMUM_COMMAND = 64 * 1024  # bytes of a command set

_ELEMENT = struct.Struct("<HHI")
_GROUP_LENGTH, _AFFECTED_CLASS, _REQUESTED_CLASS, _FIELD = 0x0000, 0x0002, 0x0003, 0x0100
_MESSAGE_ID, _RESPONDED_ID, _DATASET_TYPE, _STATUS = 0x0110, 0x0120, 0x0800, 0x0900
_AFFECTED_INSTANCE, _REQUESTED_INSTANCE, _EVENT_TYPE = 0x1000, 0x1001, 0x1002


class BadCommand(Exception):
    """The command set of a message cannot be understood."""


@dataclass(frozen=True, slots=True)
class Command:
    """A request as its command set says it. UIDs are as received, but for the padding."""

    field: int
    message_id: int
    has_dataset: bool
    sop_class_uid: str
    sop_instance_uid: str
    event_type: int | None = None


def decode_command(content: bytes | bytearray) -> Command:
    """Return the command of a whole command set. Raises BadCommand."""
    content = bytes(content)
    found: dict[int, bytes] = {}
    at, end = 0, len(content)
    while at < end:
        if end - at < 8:
            raise BadCommand("an element of the command set is cut")
        group, element, length = _ELEMENT.unpack_from(content, at)
        at += 8 + length
        if group != 0 or at > end:
            raise BadCommand("the command set is malformed")
        found[element] = content[at - length : at]
    field, dataset = _short(found, _FIELD), _short(found, _DATASET_TYPE)
    if field is None or dataset is None:
        raise BadCommand("the command set names no command or data set type")
    message_id = _short(found, _MESSAGE_ID)
    if message_id is None and field != C_CANCEL and not field & RESPONSE:
        raise BadCommand("the command set has no message id")
    return Command(
        field=field,
        message_id=message_id or 0,
        has_dataset=dataset != NO_DATASET,
        sop_class_uid=_uid(found, _AFFECTED_CLASS) or _uid(found, _REQUESTED_CLASS),
        sop_instance_uid=_uid(found, _AFFECTED_INSTANCE) or _uid(found, _REQUESTED_INSTANCE),
        event_type=_short(found, _EVENT_TYPE),
    )


def _short(found: dict[int, bytes], element: int) -> int | None:
    value = found.get(element)
    return int.from_bytes(value, "little") if value is not None and len(value) == 2 else None


def _uid(found: dict[int, bytes], element: int) -> str:
    return found.get(element, b"").rstrip(b"\0 ").decode("latin-1")


def encode_response(request: Command, status: int, sop_instance_uid: str = "") -> bytes:
    """Return the command set of the response to a request (PS3.7 Section 9.3 and 10.3), without a data set."""
    body = b"".join((
        _text(_AFFECTED_CLASS, request.sop_class_uid),
        _number(_FIELD, request.field | RESPONSE),
        _number(_RESPONDED_ID, request.message_id),
        _number(_DATASET_TYPE, NO_DATASET),
        _number(_STATUS, status),
        _text(_AFFECTED_INSTANCE, sop_instance_uid or request.sop_instance_uid),
        b"" if request.event_type is None else _number(_EVENT_TYPE, request.event_type),
    ))  # fmt: skip
    return _ELEMENT.pack(0, _GROUP_LENGTH, 4) + struct.pack("<I", len(body)) + body


def _number(element: int, value: int) -> bytes:
    return _ELEMENT.pack(0, element, 2) + struct.pack("<H", value)


def _text(element: int, uid: str) -> bytes:
    if not uid:
        return b""
    value = uid.encode("latin-1", "replace")
    value += b"\0" * (len(value) % 2)
    return _ELEMENT.pack(0, element, len(value)) + value

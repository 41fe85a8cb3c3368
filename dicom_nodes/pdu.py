"""Protocol data units of the upper layer (PS3.8 Section 9.3): bytes to values and back, nothing else.

Everything here may come from an attacker: a length is believed only where the bytes are there, counts are bounded,
and whatever is wrong is one exception, BadPDU.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from appliance import __version__
from appliance.job import derived_uid

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
HEADER = struct.Struct(">BxI")  # PDU type, length of what follows
PDV_HEADER = struct.Struct(">IBB")  # length of what follows the length, presentation context, message control
COMMAND, LAST = 0x01, 0x02  # message control header (PS3.8 Annex E.2)
MAXIMUM_LENGTH = 131072  # bytes of a P-DATA-TF we take: as many as DCMTK's tools can use
MAXIMUM_REQUEST = 256 * 1024  # bytes of an A-ASSOCIATE-RQ
MOST_CONTEXTS = 128  # as many odd ids as one byte holds
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_UID = derived_uid("implementation")
IMPLEMENTATION_VERSION = f"CURIE_{__version__}"[:16]

# items (PS3.8 Section 9.3.2 and 9.3.3, PS3.7 Annex D.3.3)
APPLICATION_ITEM, CONTEXT_RQ, CONTEXT_AC, ABSTRACT_SYNTAX, TRANSFER_SYNTAX = 0x10, 0x20, 0x21, 0x30, 0x40
USER_INFORMATION, MAXIMUM_LENGTH_ITEM, IMPLEMENTATION_ITEM, ASYNCHRONOUS = 0x50, 0x51, 0x52, 0x53
ROLE_SELECTION, VERSION_NAME, USER_IDENTITY, USER_IDENTITY_AC = 0x54, 0x55, 0x58, 0x59

# reasons of an A-ABORT by the service provider (PS3.8 Table 9-26)
NOT_SPECIFIED, UNRECOGNIZED, UNEXPECTED = 0, 1, 2
UNEXPECTED_PARAMETER, INVALID_PARAMETER = 5, 6


class BadPDU(Exception):
    """What came is no PDU of the standard; `reason` is what an A-ABORT says of it."""

    def __init__(self, sentence: str, reason: int = INVALID_PARAMETER) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class ProposedContext:
    """One presentation context as the requestor proposes it."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """An A-ASSOCIATE-RQ."""

    called: str
    calling: str
    contexts: tuple[ProposedContext, ...]
    maximum_length: int = 0  # 0: no limit
    roles: dict[str, tuple[bool, bool]] = field(default_factory=dict)  # SOP class → (SCU, SCP) proposed
    asynchronous: bool = False
    identity_type: int = 0  # 0: none; 1 user name, 2 and passcode, 3 Kerberos, 4 SAML, 5 JSON web token
    identity_response: bool = False  # a positive response is asked for


@dataclass(frozen=True)
class ContextAnswer:
    """What the acceptor says of one context; `result` 0 is acceptance (PS3.8 Table 9-18)."""

    id: int
    result: int
    transfer_syntax: str


def titles(pdu: bytes | memoryview) -> tuple[str, str]:
    """Return (called, calling) AE title of an A-ASSOCIATE-RQ without its header. Raises BadPDU."""
    if len(pdu) < 68:
        raise BadPDU("an A-ASSOCIATE-RQ shorter than its fixed part")
    return _title(bytes(pdu[4:20])), _title(bytes(pdu[20:36]))


def _title(raw: bytes) -> str:
    try:
        text = raw.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise BadPDU("an AE title is not ASCII") from None
    if not text.isprintable():
        raise BadPDU("an AE title has control characters")
    return text.strip()


class VersionUnknown(BadPDU):
    """The requestor does not offer protocol version 1 (PS3.8 Section 9.3.2): answered by a rejection."""


def decode_request(pdu: bytes) -> Request:
    """Return the A-ASSOCIATE-RQ (PS3.8 Table 9-11) whose bytes after the header these are. Raises BadPDU."""
    called, calling = titles(pdu)
    if not struct.unpack_from(">H", pdu)[0] & 1:
        raise VersionUnknown("protocol version 1 is not offered")
    contexts: list[ProposedContext] = []
    user: dict[str, object] = {}
    for kind, item in _items(pdu[68:]):
        if kind == CONTEXT_RQ:
            contexts.append(_context(item))
        elif kind == USER_INFORMATION:
            user |= _user_information(item)
    if not contexts:
        raise BadPDU("no presentation context is proposed")
    if len(contexts) > MOST_CONTEXTS or len({one.id for one in contexts}) != len(contexts):
        raise BadPDU("presentation context ids are not unique")
    return Request(called, calling, tuple(contexts), **user)  # type: ignore[arg-type]


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value) of items or sub-items; they must fill their place exactly."""
    at, end = 0, len(content)
    while at < end:
        if end - at < 4:
            raise BadPDU("an item is cut")
        kind, length = struct.unpack_from(">BxH", content, at)
        at += 4 + length
        if at > end:
            raise BadPDU("an item is longer than its place")
        yield kind, content[at - length : at]


def _context(item: bytes) -> ProposedContext:
    if len(item) < 4 or not item[0] & 1:
        raise BadPDU("a presentation context has no odd id")
    abstract, transfer = "", []
    for kind, value in _items(item[4:]):
        if kind == ABSTRACT_SYNTAX:
            abstract = _uid(value)
        elif kind == TRANSFER_SYNTAX:
            transfer.append(_uid(value))
    return ProposedContext(item[0], abstract, tuple(transfer))


def _uid(value: bytes) -> str:
    """Return a UID as text; what is none (empty, too long, other characters) is empty and matches nothing."""
    text = value.rstrip(b"\0 ")
    if len(text) > 64 or not text or text.strip(b"0123456789."):
        return ""
    return text.decode("ascii")


def _user_information(item: bytes) -> dict[str, object]:
    found: dict[str, object] = {}
    roles: dict[str, tuple[bool, bool]] = {}
    for kind, value in _items(item):
        if kind == MAXIMUM_LENGTH_ITEM and len(value) == 4:
            found["maximum_length"] = _peer_maximum(struct.unpack(">I", value)[0])
        elif kind == ROLE_SELECTION:
            uid, scu, scp = _role(value)
            roles[uid] = (scu, scp)
        elif kind == ASYNCHRONOUS:
            found["asynchronous"] = True
        elif kind == USER_IDENTITY:
            if len(value) < 2:
                raise BadPDU("a user identity item is cut")
            found |= {"identity_type": value[0], "identity_response": value[1] == 1}
    return {**found, "roles": roles}


def _peer_maximum(length: int) -> int:
    if 0 < length < 8:
        raise BadPDU("the peer's maximum length leaves no room for a fragment")
    return length


def _role(value: bytes) -> tuple[str, bool, bool]:
    length = struct.unpack_from(">H", value)[0] if len(value) >= 2 else 0
    if len(value) != length + 4:
        raise BadPDU("a role selection item is cut")
    return _uid(value[2 : 2 + length]), value[-2] == 1, value[-1] == 1


# --- what we send ---


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _pdu(kind: int, value: bytes) -> bytes:
    return HEADER.pack(kind, len(value)) + value


def encode_accept(
    request: Request,
    called_calling: bytes,
    answers: Sequence[ContextAnswer],
    roles: dict[str, tuple[bool, bool]],
    positive_identity: bool = False,
) -> bytes:
    """Return the A-ASSOCIATE-AC (PS3.8 Table 9-17); `called_calling` are the 64 bytes of titles and reserve."""
    items = [_item(APPLICATION_ITEM, APPLICATION_CONTEXT.encode())]
    for one in answers:
        syntax = _item(TRANSFER_SYNTAX, one.transfer_syntax.encode())
        items.append(_item(CONTEXT_AC, struct.pack(">BxBx", one.id, one.result) + syntax))
    user = [
        _item(MAXIMUM_LENGTH_ITEM, struct.pack(">I", MAXIMUM_LENGTH)),
        _item(IMPLEMENTATION_ITEM, IMPLEMENTATION_UID.encode()),
    ]
    if request.asynchronous:
        user.append(_item(ASYNCHRONOUS, struct.pack(">HH", 1, 1)))  # one operation at a time (PS3.7 Annex D.3.3.3)
    for uid, (scu, scp) in roles.items():
        user.append(_item(ROLE_SELECTION, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp))))
    user.append(_item(VERSION_NAME, IMPLEMENTATION_VERSION.encode()))
    if positive_identity:
        user.append(_item(USER_IDENTITY_AC, struct.pack(">H", 0)))
    items.append(_item(USER_INFORMATION, b"".join(user)))
    return _pdu(ASSOCIATE_AC, struct.pack(">Hxx", 1) + called_calling + b"".join(items))


def encode_reject(result: int, source: int, diagnostic: int) -> bytes:
    """Return the A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""
    return _pdu(ASSOCIATE_RJ, bytes((0, result, source, diagnostic)))


def encode_abort(reason: int, source: int = 2) -> bytes:
    """Return the A-ABORT (PS3.8 Table 9-26), by default of the service provider."""
    return _pdu(ABORT, bytes((0, 0, source, reason)))


RELEASE_REQUEST = _pdu(RELEASE_RQ, bytes(4))
RELEASE_RESPONSE = _pdu(RELEASE_RP, bytes(4))

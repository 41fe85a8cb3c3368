"""The bytes of DICOM's upper layer (PS3.8 Section 9.3) and of C-STORE and C-ECHO messages (PS3.7 Section 9.3), by hand.

For the benchmark's sender and its null sink only: enough of the standard to speak to a real peer, nothing to decide.
The product's receiver must never use it, so that the two ends of a measurement share no code.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
MAXIMUM_PDU = 131072  # bytes; the most that DCMTK's tools can use
APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
IMPLICIT_LE = "1.2.840.10008.1.2"
IMPLEMENTATION_CLASS = b"2.25.19140801"
CONTEXT = 1  # the one presentation context that we propose
COMMAND, LAST = 0x01, 0x02  # bits of the message control header, PS3.8 Annex E.2
C_STORE_RQ, C_ECHO_RQ, RESPONSE = 0x0001, 0x0030, 0x8000
NO_DATASET = 0x0101

Buffer = bytes | memoryview


class Broken(Exception):
    """The peer closed, refused, aborted or answered something else."""


def pdu(kind: int, body: bytes) -> bytes:
    """Return one PDU."""
    return struct.pack(">BxI", kind, len(body)) + body


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _user_information(maximum: int) -> bytes:
    return _item(0x50, _item(0x51, struct.pack(">I", maximum)) + _item(0x52, IMPLEMENTATION_CLASS))


def _associate(called: str, calling: str, items: bytes) -> bytes:
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    return struct.pack(">HH", 1, 0) + titles + bytes(32) + _item(0x10, APPLICATION_CONTEXT) + items


def associate_rq(called: str, calling: str, sop_class: str, syntaxes: Sequence[str] = (EXPLICIT_LE,)) -> bytes:
    """Return an A-ASSOCIATE-RQ with one presentation context."""
    offered = b"".join(_item(0x40, syntax.encode()) for syntax in syntaxes)
    context = _item(0x20, bytes([CONTEXT, 0, 0, 0]) + _item(0x30, sop_class.encode()) + offered)
    return pdu(ASSOCIATE_RQ, _associate(called, calling, context + _user_information(MAXIMUM_PDU)))


def _items(body: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        found.append((kind, body[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def associate_ac(request: bytes) -> bytes:
    """Return the A-ASSOCIATE-AC that takes every context's first transfer syntax. `request`: the RQ's body."""
    contexts = b""
    for kind, body in _items(request[68:]):
        if kind == 0x20:
            syntax = next(value for item, value in _items(body[4:]) if item == 0x40)
            contexts += _item(0x21, bytes([body[0], 0, 0, 0]) + _item(0x40, syntax))
    called, calling = request[4:20].decode(), request[20:36].decode()
    return pdu(ASSOCIATE_AC, _associate(called, calling, contexts + _user_information(MAXIMUM_PDU)))


def peers_maximum(kind: int, body: bytes) -> int:
    """Return the maximum PDU length of an A-ASSOCIATE-AC, 0 for no limit. Raises Broken when it accepts nothing."""
    if kind != ASSOCIATE_AC:
        raise Broken(f"the association was not accepted: PDU type {kind}, {body[:4].hex()}")
    maximum, result = 0, 255
    for item, value in _items(body[68:]):
        if item == 0x21:
            result = value[2]
        if item == 0x50:
            maximum = next((struct.unpack(">I", v)[0] for i, v in _items(value) if i == 0x51), 0)
    if result != 0:
        raise Broken(f"the presentation context was not accepted: result {result}")
    return maximum


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, element, len(value)) + value


def _us(element: int, value: int) -> bytes:
    return _element(element, struct.pack("<H", value))


def _ui(element: int, uid: str) -> bytes:
    value = uid.encode()
    return _element(element, value + bytes(len(value) % 2))


def _command(elements: bytes) -> bytes:
    """Return a whole command as one P-DATA-TF PDU."""
    body = _element(0x0000, struct.pack("<I", len(elements))) + elements
    return pdu(P_DATA, struct.pack(">IBB", len(body) + 2, CONTEXT, COMMAND | LAST) + body)


def store_rq(sop_class: str, sop_instance: str, message_id: int) -> bytes:
    """Return a C-STORE-RQ command (PS3.7 Section 9.3.1.1) in its PDU."""
    request = _us(0x0100, C_STORE_RQ) + _us(0x0110, message_id) + _us(0x0700, 0) + _us(0x0800, 0x0001)
    return _command(_ui(0x0002, sop_class) + request + _ui(0x1000, sop_instance))


def echo_rq() -> bytes:
    """Return a C-ECHO-RQ command (PS3.7 Section 9.3.5.1) in its PDU."""
    return _command(_ui(0x0002, VERIFICATION) + _us(0x0100, C_ECHO_RQ) + _us(0x0110, 1) + _us(0x0800, NO_DATASET))


def response(command: dict[int, bytes]) -> bytes:
    """Return the answer 0x0000 to a command."""
    field = _us(0x0100, RESPONSE | struct.unpack("<H", command[0x0100])[0])
    answer = field + _element(0x0120, command[0x0110]) + _us(0x0800, NO_DATASET) + _us(0x0900, 0)
    uid = _element(0x1000, command[0x1000]) if 0x1000 in command else b""
    return _command(_element(0x0002, command[0x0002]) + answer + uid)


def elements(command: bytes) -> dict[int, bytes]:
    """Return the elements of a command set (Implicit VR Little Endian) by element number."""
    found, at = {}, 0
    while at + 8 <= len(command):
        _, element, length = struct.unpack_from("<HHI", command, at)
        found[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def data_pieces(parts: Sequence[Buffer], maximum: int) -> list[Buffer]:
    """Return the buffers that, one after another, are a dataset as P-DATA-TF PDUs of at most `maximum` bytes.

    `parts` together are the dataset; nothing is copied.
    """
    room = ((min(maximum, MAXIMUM_PDU) if maximum else MAXIMUM_PDU) - 6) & ~1
    left = sum(len(part) for part in parts)
    pieces: list[Buffer] = []
    views = [memoryview(part) for part in parts]
    while left:
        size = min(room, left)
        left -= size
        pieces.append(struct.pack(">BxIIBB", P_DATA, size + 6, size + 2, CONTEXT, 0 if left else LAST))
        while size:
            taken = views[0][:size]
            pieces.append(taken)
            size -= len(taken)
            views[0] = views[0][len(taken) :]
            if not views[0]:
                del views[0]
    return pieces


def read_exactly(connection: socket.socket, length: int) -> bytes:
    """Return the next bytes of a connection. Raises Broken at its end."""
    content = b""
    while len(content) < length:
        more = connection.recv(length - len(content))
        if not more:
            raise Broken("the peer closed the connection")
        content += more
    return content


def read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    """Return (type, body) of the next PDU."""
    kind, length = struct.unpack(">BxI", read_exactly(connection, 6))
    if length > MAXIMUM_PDU:
        raise Broken(f"a PDU of {length} bytes, more than we allow")
    return kind, read_exactly(connection, length)


def read_status(connection: socket.socket, message_id: int) -> int:
    """Return the status of the next response, which has to be the one to `message_id`."""
    command, going = b"", True
    while going:
        kind, body = read_pdu(connection)
        if kind != P_DATA:
            raise Broken(f"PDU type {kind} instead of a response: {body[:4].hex()}")
        while body:
            length, _, control = struct.unpack_from(">IBB", body)
            command += body[6 : 4 + length]
            body = body[4 + length :]
            going = not control & LAST
    found = elements(command)
    answered = int(struct.unpack("<H", found[0x0120])[0])
    if answered != message_id:
        raise Broken(f"the response to message {answered} instead of {message_id}")
    return int(struct.unpack("<H", found[0x0900])[0])

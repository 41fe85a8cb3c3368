"""A peer that sends whatever a test tells it to: raw PDUs over a socket, the requests encoded by pynetdicom."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext

RQ, AC, RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
MR = "1.2.840.10008.5.1.4.1.1.4"
CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
C_STORE, C_ECHO, N_EVENT_REPORT, N_SET, N_CREATE = 0x0001, 0x0030, 0x0100, 0x0120, 0x0140
COMMAND, LAST = 1, 2


def pdu(kind: int, body: bytes = bytes(4)) -> bytes:
    """Return one PDU."""
    return struct.pack(">BxI", kind, len(body)) + body


def fragment(context: int, control: int, content: bytes) -> bytes:
    """Return one presentation data value item."""
    return struct.pack(">IBB", len(content) + 2, context, control) + content


def data(*fragments: bytes) -> bytes:
    """Return a P-DATA-TF."""
    return pdu(DATA, b"".join(fragments))


def request(
    contexts: Sequence[tuple[int, str, Sequence[str]]],
    calling: str = "SCANNER",
    called: str = "CURIE",
    maximum: int = 16384,
    more: Sequence[Any] = (),
) -> bytes:
    """Return an A-ASSOCIATE-RQ; `more` are user information primitives of pynetdicom."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    proposed = []
    for identity, abstract, syntaxes in contexts:
        context = PresentationContext()
        context.context_id, context.abstract_syntax, context.transfer_syntax = identity, abstract, list(syntaxes)
        proposed.append(context)
    primitive.presentation_context_definition_list = proposed
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = maximum
    implementation.implementation_class_uid = "1.2.3"  # type: ignore[assignment]
    primitive.user_information = [length, implementation, *more]
    found = A_ASSOCIATE_RQ()
    found.from_primitive(primitive)
    return bytes(found.encode())


def role(uid: str, scu: bool, scp: bool) -> Any:
    """Return a role selection."""
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid, item.scu_role, item.scp_role = uid, scu, scp  # type: ignore[assignment]
    return item


def command(
    field: int,
    message_id: int,
    sop_class: str = MR,
    instance: str = "",
    dataset: bool = True,
    requested: bool = False,
    more: bytes = b"",
) -> bytes:
    """Return a command set; `requested`: with the Requested instead of the Affected SOP Class and Instance UID."""

    def uid(element: int, value: str) -> bytes:
        raw = value.encode()
        raw += b"\0" * (len(raw) % 2)
        return struct.pack("<HHI", 0, element, len(raw)) + raw

    def us(element: int, value: int) -> bytes:
        return struct.pack("<HHIH", 0, element, 2, value)

    body = uid(3 if requested else 2, sop_class) + us(0x100, field) + us(0x110, message_id)
    body += us(0x800, 0x0001 if dataset else 0x0101)
    body += uid(0x1001 if requested else 0x1000, instance) if instance else b""
    return struct.pack("<HHII", 0, 0, 4, len(body + more)) + body + more


class RawPeer:
    """One connection."""

    def __init__(self, address: tuple[str, int], source: str = "", timeout: float = 10) -> None:
        self.socket = socket.create_connection(address, timeout, (source, 0) if source else None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, content: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(content)

    def read(self, length: int) -> bytes:
        """Return so many bytes, fewer at the end of the connection."""
        found = b""
        while len(found) < length and (piece := self.socket.recv(length - len(found))):
            found += piece
        return found

    def pdu(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU; (0, b"") when the connection is over."""
        try:
            head = self.read(6)
        except ConnectionResetError:
            return 0, b""
        if len(head) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxI", head)
        return kind, self.read(length)

    def associate(
        self, contexts: Sequence[tuple[int, str, Sequence[str]]] = ((1, MR, (EXPLICIT,)),), **more: Any
    ) -> Any:
        """Open an association; returns the accepted A-ASSOCIATE-AC as pynetdicom reads it."""
        self.send(request(contexts, **more))
        kind, body = self.pdu()
        assert kind == AC, (kind, body)
        answer = A_ASSOCIATE_AC()
        answer.decode(pdu(kind, body))
        return answer

    def store(self, uid: str, content: bytes, context: int = 1, message_id: int = 1, sop_class: str = MR) -> int:
        """Send one C-STORE-RQ in one P-DATA-TF and return the status."""
        asked = fragment(context, COMMAND | LAST, command(C_STORE, message_id, sop_class, uid))
        self.send(data(asked, fragment(context, LAST, content)))
        return self.status(message_id)

    def response(self) -> dict[int, bytes]:
        """Return the elements of the next response."""
        kind, body = self.pdu()
        assert kind == DATA, (kind, body)
        found, at = {}, 6
        while at < len(body):
            _, element, length = struct.unpack_from("<HHI", body, at)
            found[element] = body[at + 8 : at + 8 + length]
            at += 8 + length
        return found

    def status(self, message_id: int) -> int:
        """Return the status of the next response, which answers this message."""
        found = self.response()
        assert int.from_bytes(found[0x120], "little") == message_id
        return int.from_bytes(found[0x900], "little")

    def release(self) -> None:
        """Release in order."""
        self.send(pdu(RELEASE_RQ))
        assert self.pdu()[0] == RELEASE_RP
        self.socket.close()

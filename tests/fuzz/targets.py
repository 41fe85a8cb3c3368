"""What the fuzzer asks: any bytes, at every place where a stranger's bytes are read. No target waits for anything.

A target returns, or raises what its code may raise nowhere: then that is a finding. Beyond that, what an association
or a request acknowledged must equal what was kept, what it sent must be PDUs, and no file may stay open.
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from appliance.errors import InstanceRefused
from dicom_nodes import dimse, pdu, store_transaction, upper_layer
from dicom_nodes.admission import EVERYTHING
from dicom_nodes.arrivals import FileKept, MessageKept
from dicom_nodes.command import BadCommand, decode_command
from dicom_nodes.contexts import (
    EXPLICIT_LE,
    IAN,
    IMPLICIT_LE,
    MPPS,
    STORAGE_COMMITMENT,
    VERIFICATION,
    answer_context,
    answer_roles,
)
from dicom_nodes.dimse import Association
from dicom_nodes.file_meta import BIG_ENDIAN, read_meta, study_of
from dicom_nodes.message import Message
from dicom_nodes.multipart import Malformed, WrongMediaType, boundary_of
from dicom_nodes.services import Accepted, Limits, Peer, Services
from dicom_nodes.spool import Part, Spool, SpoolFile
from dicom_nodes.store_transaction import DICOM, StoreTransaction, TooLarge
from dicom_nodes.upper_layer import State
from tests.raw_peer import CT, MR, command
from tests.web_peer import BOUNDARY

LIMITS = Limits(instance_bytes=400, association_bytes=2000)
ACCEPTED = {
    1: Accepted(MR, EXPLICIT_LE),
    3: Accepted(CT, IMPLICIT_LE),
    5: Accepted(VERIFICATION, IMPLICIT_LE),
    7: Accepted(STORAGE_COMMITMENT, IMPLICIT_LE),
    9: Accepted(MPPS, EXPLICIT_LE),
    11: Accepted(IAN, EXPLICIT_LE),
}
PEER_MAXIMUM = 64
SUCCEEDED, ECHOED = b"\0\0\0\x09\2\0\0\0\0\0", b"\0\0\0\1\2\0\0\0\x30\x80"  # elements of a response
FIELDS = (1, 0x30, 0x100, 0x120, 0x140, 0xFFF, 0x8001, 0x20)


class FuzzSpool(Spool):
    """A spool that opens real parts, and counts instead of keeping."""

    def __init__(self) -> None:
        super().__init__(_memory() / f"curie-fuzz-{os.getuid()}", 0)  # the fuzzer's end runs no clean-up: one for all
        self.parts.mkdir(parents=True, exist_ok=True)
        self.open: list[Part] = []

    def begin(self, sop_instance_uid: str) -> Part:
        part = super().begin(sop_instance_uid)
        self.open.append(part)
        close = part.close
        part.close = lambda: (close(), self.open.remove(part))  # type: ignore[assignment, func-returns-value]
        return part

    def keep_part(self, part: Part, sop_instance_uid: str) -> SpoolFile:
        return SpoolFile("00/kept", part.bytes, True)

    def keep_message(self, part: Part) -> SpoolFile:
        return SpoolFile("message/kept", part.bytes, True)


def _memory() -> Path:
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


STOP_AFTER, LOSES_PLACE, DOES_NOT_READ, RESETS = 0x1F, 0x20, 0x40, 0x80  # bits of the second byte


class Wire:
    """A connection that brings what it was given, in pieces of one size, and keeps what is sent; and its place.

    After some pieces there is a silence, in which we are told to stop or lose the place.
    """

    def __init__(self, size: int, course: int, content: bytes) -> None:
        self.content = content
        self.at = self.turn = 0
        self.size = size or len(content)
        self.course = course
        self.stop = threading.Event()
        self.sent = bytearray()
        self.mine = True

    def recv_into(self, view: memoryview) -> int:
        self.turn += 1
        if self.turn == self.course & STOP_AFTER:
            self.mine = not self.course & LOSES_PLACE
            self.stop.set()
            raise BlockingIOError
        piece = self.content[self.at : self.at + min(self.size, len(view))]
        if not piece and self.course & RESETS:
            raise ConnectionResetError
        view[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)

    def sendall(self, content: bytes) -> None:
        if self.course & DOES_NOT_READ and self.sent:
            raise TimeoutError
        self.sent += content

    def setsockopt(self, *_: object) -> None:
        """Nothing to set."""

    def is_mine(self) -> bool:
        return self.mine

    def heard(self, brought: bool = False) -> None:
        """Nobody asks."""


def shrink(put: Callable[[object, str, object], None] = setattr) -> None:
    """Make limits so small that inputs of a few hundred bytes reach them."""
    put(pdu, "MAXIMUM_LENGTH", 256)
    put(dimse, "BUFFER", 1024)
    put(dimse, "MAXIMUM_COMMAND", 300)
    put(dimse, "MOST_MESSAGES", 4)
    put(dimse, "MOST_PIECES", 8)
    put(store_transaction, "HEAD_BYTES", 700)
    put(store_transaction, "FIRST_LOOK", 200)
    put(store_transaction, "MOST_INSTANCES", 4)
    put(upper_layer, "LONGEST", {**upper_layer.LONGEST, pdu.P_DATA: 256})


@cache
def spool() -> FuzzSpool:
    """Return the spool of this process."""
    return FuzzSpool()


def _services(kept: list[object]) -> Services:
    return Services(spool(), Peer("id", "SCANNER", "10.0.0.1"), LIMITS, kept.append, lambda _: None)


def decoders(content: bytes) -> None:
    """Whatever is no PDU or command is BadPDU or BadCommand, nothing else."""
    with suppress(pdu.BadPDU):
        pdu.titles(content[6:])
    with suppress(pdu.BadPDU):
        _negotiate(content[6:])
    with suppress(BadCommand):
        decode_command(content[6:])
    if len(content) >= 6:
        kind, length = pdu.HEADER.unpack_from(content)
        for state in State:
            upper_layer.action(state, kind)
        with suppress(pdu.BadPDU):
            upper_layer.check_length(kind, length)


def _negotiate(content: bytes) -> None:
    asked = pdu.decode_request(content)
    answers = [answer_context(one, EVERYTHING.__contains__) for one in asked.contexts]
    roles = answer_roles(asked.roles, asked.contexts)
    answer = pdu.encode_accept(asked, content[4:68], answers, roles, asked.identity_response)
    upper_layer.check_length(*pdu.HEADER.unpack_from(answer))


def association(content: bytes) -> None:
    """A whole association: nothing escapes, and what is answered with 0x0000 was kept."""
    if len(content) < 2:
        return
    kept: list[object] = []
    wire = Wire(content[0], content[1], content[2:])
    served = Association(wire, ACCEPTED, _services(kept), PEER_MAXIMUM)  # type: ignore[arg-type]
    end = served.run(wire, wire.stop)  # type: ignore[arg-type]
    assert end.how
    assert not spool().open, "a part is still open"
    unread = bool(content[1] & DOES_NOT_READ)
    assert len(kept) - unread <= _acknowledged(bytes(wire.sent)) <= len(kept), "acknowledged is not what was kept"
    assert all(isinstance(one, FileKept | MessageKept) for one in kept)


def _acknowledged(sent: bytes) -> int:
    """Return how many messages but C-ECHO were answered with success; everything sent must be PDUs."""
    at = count = 0
    answer = bytearray()
    while at < len(sent):
        kind, length = pdu.HEADER.unpack_from(sent, at)
        assert kind != pdu.P_DATA or length <= PEER_MAXIMUM, "longer than the peer takes"
        upper_layer.check_length(kind, length)
        at += pdu.HEADER.size + length
        assert at <= len(sent), "a PDU that is cut"
        if kind == pdu.P_DATA:
            (inner, _, control), value = pdu.PDV_HEADER.unpack_from(sent, at - length), sent[at - length + 6 : at]
            assert (inner, control & pdu.COMMAND) == (len(value) + 2, pdu.COMMAND)
            answer += value
            if control & pdu.LAST:
                decode_command(answer)
                count += SUCCEEDED in answer and ECHOED not in answer
                answer.clear()
    return count


def framed(content: bytes) -> None:
    """The same with PDUs whose framing is right: every few bytes choose context, control and content of a fragment."""
    if len(content) < 2:
        return
    contexts, sent, at = list(ACCEPTED), bytearray(), 2
    while at + 4 <= len(content):
        context, control, field, length = contexts[content[at] % len(contexts)], *content[at + 1 : at + 4]
        value = content[at + 4 : at + 4 + length]
        at += 4 + length
        if control & 0x80:
            uid = value.decode("latin-1") if control & 0x40 else "1.2.3"
            accepted = ACCEPTED[context].sop_class_uid
            value = command(FIELDS[field % len(FIELDS)], field, accepted, uid, dataset=bool(control & 0x20))
        fragments = struct.pack(">IBB", len(value) + 2, context, control & 3) + value
        sent += struct.pack(">BxI", 4, len(fragments)) + fragments
    association(content[:2] + bytes(sent))


def message(content: bytes) -> None:
    """What is no message is a ValueError."""
    with suppress(ValueError):
        Message.decode(content)


def stow(content: bytes) -> None:
    """A whole Store transaction: what is named as stored was kept."""
    if len(content) < 2:
        return
    kept: list[object] = []
    size, study, rest = content[0] or len(content), "1.5" if content[1] & 1 else "", content[2:]
    transaction = StoreTransaction(_services(kept), BOUNDARY.encode(), study)
    try:
        for at in range(0, len(rest), size):
            transaction.feed(rest[at : at + size])
        transaction.finish()
    except (Malformed, TooLarge):
        pass
    finally:
        transaction.close()
    assert len(transaction.outcome.stored) == len(kept)
    assert not spool().open, "a part is still open"


def file_head(content: bytes) -> None:
    """Any first bytes of a file have an answer or are refused."""
    syntax = (EXPLICIT_LE, IMPLICIT_LE, BIG_ENDIAN)[content[0] % 3] if content else EXPLICIT_LE
    study_of(content[1:], syntax)
    with suppress(InstanceRefused):
        read_meta(bytes(128) + b"DICM" + content[1:])


def media_type(content: bytes) -> None:
    """Any Content-Type is understood or refused."""
    with suppress(Malformed, WrongMediaType):
        boundary_of(content.decode("latin-1"), DICOM)


DECODERS, ASSOCIATION, FRAMED, MESSAGE, STOW, FILE_HEAD, MEDIA_TYPE = (
    decoders, association, framed, message, stow, file_head, media_type,
)  # fmt: skip
TARGETS: list[Callable[[bytes], None]] = [DECODERS, ASSOCIATION, FRAMED, MESSAGE, STOW, FILE_HEAD, MEDIA_TYPE]


def run_one(content: bytes) -> None:
    """Give one input to the target that its first byte names."""
    if content:
        TARGETS[content[0] % len(TARGETS)](content[1:])

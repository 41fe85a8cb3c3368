"""What the receiver does with a message: C-STORE to the spool, N-services to the spool's messages. Never decodes.

| service (PS3.4)                       | command                | kept as                         |
|---------------------------------------|------------------------|---------------------------------|
| Storage, Annex B                      | C-STORE                | instance, under its name        |
| Storage Commitment, Annex J           | N-EVENT-REPORT         | message                         |
| Modality Performed Procedure Step, F  | N-CREATE, N-SET        | message                         |
| Instance Availability Notification, R | N-CREATE               | message                         |
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from appliance.errors import InstanceRefused
from appliance.log import logger
from dicom_nodes.arrivals import Arrival, FileKept, MessageKept
from dicom_nodes.command import C_STORE, N_CREATE, N_EVENT_REPORT, N_SET, Command
from dicom_nodes.contexts import Service, service_of
from dicom_nodes.elements import element, text
from dicom_nodes.message import LARGEST_BYTES, Message
from dicom_nodes.pdu import IMPLEMENTATION_UID
from dicom_nodes.spool import SPACE_EVERY, Part, Spool, SpoolFile

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
UNRECOGNIZED_OPERATION = 0x0211
MAXIMUM_MESSAGE = LARGEST_BYTES - 65536  # bytes of the data set of an N-service; its head line comes before
PREAMBLE = bytes(128) + b"DICM\2\0\0\0UL\4\0"  # up to the value of the group length
COMMANDS = {
    (Service.STORAGE, C_STORE): "C-STORE",
    (Service.COMMITMENT, N_EVENT_REPORT): "N-EVENT-REPORT",
    (Service.PROCEDURE_STEP, N_CREATE): "N-CREATE",
    (Service.PROCEDURE_STEP, N_SET): "N-SET",
    (Service.AVAILABILITY, N_CREATE): "N-CREATE",
}


@dataclass(frozen=True)
class Accepted:
    """A presentation context both sides agreed upon."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Peer:
    """The other end of an open association."""

    id: str
    ae_title: str
    address: str


@dataclass(frozen=True)
class Limits:
    """What one instance and one association may bring, in bytes."""

    instance_bytes: int
    association_bytes: int


class Services:
    """What one association may use: the spool, and who is told of what was kept or refused."""

    def __init__(
        self,
        spool: Spool,
        peer: Peer,
        limits: Limits,
        put: Callable[[Arrival], None],
        refused: Callable[[str], None],
    ) -> None:
        self.spool = spool
        self.peer = peer
        self.limits = limits
        self.put = put
        self.refused = refused

    def begin(self, command: Command, accepted: Accepted) -> Keeping:
        """Open what a request asks for; a refusal is answered when its data set has passed."""
        keeping = Keeping(self, command, accepted)
        try:
            keeping.open()
        except InstanceRefused as refusal:
            keeping.refuse(refusal)
        return keeping


class Keeping:
    """One message on its way to disk, or past it."""

    def __init__(self, services: Services, command: Command, accepted: Accepted) -> None:
        self.services = services
        self.command = command
        self.accepted = accepted
        self.refusal: InstanceRefused | None = None
        self._name = COMMANDS.get((service_of(accepted.sop_class_uid), command.field), "")
        self._instance = command.sop_instance_uid
        self._part: Part | None = None
        self._kept: SpoolFile | None = None
        self._bytes = self._looked_at = 0
        self._limit = services.limits.instance_bytes if self._name == "C-STORE" else MAXIMUM_MESSAGE

    def open(self) -> None:
        """Check the command and open the file. Raises InstanceRefused."""
        if not self._name:
            raise InstanceRefused("an operation that this SOP class does not have", UNRECOGNIZED_OPERATION)
        if self.command.sop_class_uid != self.accepted.sop_class_uid:
            raise InstanceRefused("the SOP class is not that of its context", InstanceRefused.WRONG_CLASS)
        if self._name == "N-CREATE" and not self._instance:
            self._instance = f"2.25.{uuid.uuid4().int}"  # PS3.7 Section 10.1.5.1.4: then the SCP gives one
        self._part = self.services.spool.begin(self._instance)
        self._write([self._head()])

    def _head(self) -> bytes:
        """Return what stands before the data set in the file."""
        if self._name == "C-STORE":
            return file_head(self.accepted, self._instance)
        peer = self.services.peer
        return Message(
            command=self._name,
            sop_class_uid=self.accepted.sop_class_uid,
            sop_instance_uid=self._instance,
            event_type=self.command.event_type,
            transfer_syntax_uid=self.accepted.transfer_syntax_uid,
            calling_ae_title=peer.ae_title,
            address=peer.address,
            received_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            dataset=b"",
        ).encode()

    def refuse(self, refusal: InstanceRefused) -> None:
        """Let the rest of the data set pass, to be answered with the refusal's status."""
        self.refusal = refusal
        self._discard()

    def write(self, pieces: Sequence[memoryview]) -> bool:
        """Take some bytes of the data set; False when it goes on beyond twice the limit."""
        self._bytes += sum(map(len, pieces))
        if self.refusal is None:
            try:
                if self._bytes > self._limit:
                    raise InstanceRefused("larger than receiver.max_instance_gb", InstanceRefused.OUT_OF_STORAGE)
                self._look_at_space()
                self._write(pieces)
            except InstanceRefused as refusal:
                self.refuse(refusal)
        return self._bytes <= 2 * self._limit

    def _look_at_space(self) -> None:
        if self._bytes - self._looked_at > SPACE_EVERY:
            self._looked_at = self._bytes
            if self.services.spool.is_low():
                raise InstanceRefused("free space is below spool.reserve_gb", InstanceRefused.OUT_OF_STORAGE)

    def _write(self, pieces: Sequence[memoryview | bytes]) -> None:
        assert self._part is not None
        try:
            self._part.write(pieces)
        except OSError as error:
            raise InstanceRefused(f"cannot write: {error.strerror}", InstanceRefused.OUT_OF_STORAGE) from None

    def finish(self, has_dataset: bool) -> tuple[int, str]:
        """Make the whole message durable. Returns the status to answer, and the SOP Instance UID."""
        try:
            if self.refusal is None and not (has_dataset and self._bytes):
                self.refusal = InstanceRefused("a request without its data set", InstanceRefused.UNREADABLE)
            if self.refusal is not None:
                raise self.refusal
            assert self._part is not None
            spool = self.services.spool
            instance = self._name == "C-STORE"
            self._kept = spool.keep_part(self._part, self._instance) if instance else spool.keep_message(self._part)
        except InstanceRefused as refusal:
            self.services.refused(str(refusal))
            logger().warning("instance_refused", reason=str(refusal), status=f"0x{refusal.status:04X}")
            return refusal.status, self._instance
        except Exception as error:  # noqa: BLE001 - the edge: whatever breaks, the peer gets a failure status
            logger().error("store_failed", cause=type(error).__name__)
            return PROCESSING_FAILURE, self._instance
        return SUCCESS, self._instance

    def close(self) -> None:
        """Drop the part, and hand over what was kept; after the answer, or instead of it."""
        self._discard()
        if self._kept is not None:
            peer, path = self.services.peer, self._kept.path
            self.services.put(FileKept(path, peer.id) if self._name == "C-STORE" else MessageKept(path))

    def _discard(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            with suppress(OSError):
                part.close()


def file_head(accepted: Accepted, sop_instance_uid: str) -> bytes:
    """Return preamble and File Meta Information (PS3.10 Section 7.1) of an instance as it was negotiated."""
    before, after = _around_instance(accepted)
    meta = before + text(0x00020003, b"UI", sop_instance_uid) + after
    return PREAMBLE + len(meta).to_bytes(4, "little") + meta


@lru_cache(maxsize=256)
def _around_instance(accepted: Accepted) -> tuple[bytes, bytes]:
    """Return what stands before and after the SOP Instance UID, the same for every instance of a context."""
    version, sop_class = element(0x00020001, b"OB", b"\0\1"), text(0x00020002, b"UI", accepted.sop_class_uid)
    syntax = text(0x00020010, b"UI", accepted.transfer_syntax_uid)
    return version + sop_class, syntax + text(0x00020012, b"UI", IMPLEMENTATION_UID)

"""One Store transaction (PS3.18 Section 10.5): the body of a request, part by part to the spool, by C-STORE's rules.

The bytes on disk are those that C-STORE of the same instance leaves. Memory is constant: what is held back of an
instance is its first bytes, until its File Meta Information is whole. Nothing here knows HTTP.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from appliance.errors import InstanceRefused
from appliance.log import logger
from dicom_nodes.command import C_STORE, Command
from dicom_nodes.contexts import DEFLATED, Service, is_uid, may_be_kept, service_of
from dicom_nodes.file_meta import FileMeta, read_meta, study_of
from dicom_nodes.multipart import Malformed, Multipart
from dicom_nodes.services import SUCCESS, Accepted, Keeping, Services

DICOM = b"application/dicom"
HEAD_BYTES = 64 * 1024  # of an instance that are held back and looked at
FIRST_LOOK = 512  # bytes; the next ones at twice as many, so that drops cost no more than a stream
MOST_INSTANCES = 20_000  # of one request: the answer names each of them

# failure reasons (PS3.18 Table I.2-2)
CLASS_NOT_SUPPORTED, SYNTAX_NOT_SUPPORTED = 0x0122, 0xC122


class TooLarge(Exception):
    """The request goes beyond a limit."""


@dataclass
class Outcome:
    """What became of the instances of a request, as (SOP class, SOP instance[, failure reason])."""

    stored: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str, int]] = field(default_factory=list)
    others: list[int] = field(default_factory=list)  # failure reasons of parts that name no instance

    def __len__(self) -> int:
        return len(self.stored) + len(self.failed) + len(self.others)


class StoreTransaction:
    """Takes the body as it comes. May be closed by another thread than the one that feeds it."""

    def __init__(self, services: Services, boundary: bytes, study: str = "") -> None:
        self.outcome = Outcome()
        self._services = services
        self._study = study
        self._body = Multipart(boundary, self)
        self._bytes = 0
        self._instance: _Instance | None = None
        self._lock = threading.Lock()
        self._closed = False

    def feed(self, piece: bytes) -> None:
        """Take some bytes of the body. Raises Malformed, TooLarge."""
        with self._lock:
            self._bytes += len(piece)
            if self._bytes > self._services.limits.association_bytes:
                raise TooLarge("more than receiver.max_association_gb in one request")
            if not self._closed:
                self._body.feed(piece)

    def finish(self) -> Outcome:
        """Return what became of each instance; those stored are durable. Raises Malformed."""
        if not self._body.is_whole():
            raise Malformed("the body ends before its closing boundary")
        if not len(self.outcome):
            raise Malformed("the body has no parts")
        return self.outcome

    def close(self) -> None:
        """Drop what is not whole."""
        with self._lock:
            self._closed = True
            if self._instance is not None:
                self._instance.close()

    # --- what the body brings ---

    def begin(self) -> None:
        """Begin with the next instance. Raises TooLarge."""
        if len(self.outcome) >= MOST_INSTANCES:
            raise TooLarge(f"more than {MOST_INSTANCES} instances in one request")
        self._instance = _Instance(self._services, self._study)

    def headers(self, content_type: bytes) -> None:
        """Look at the part's own type; one without is taken for what the body's says."""
        assert self._instance is not None
        if content_type not in (b"", DICOM):
            self._instance.refuse("a part of another media type", InstanceRefused.UNREADABLE)

    def write(self, piece: memoryview) -> None:
        """Take some bytes of the instance. Raises TooLarge."""
        assert self._instance is not None
        self._instance.write(piece)

    def end(self) -> None:
        """Make the instance durable, or note why not."""
        assert self._instance is not None
        instance, self._instance = self._instance, None
        try:
            reason = instance.finish()
        finally:
            instance.close()
        meta = instance.meta
        if meta is None or not may_be_kept(meta.sop_instance_uid) or not is_uid(meta.sop_class_uid):
            self.outcome.others.append(reason)
        elif reason == SUCCESS:
            self.outcome.stored.append((meta.sop_class_uid, meta.sop_instance_uid))
        else:
            self.outcome.failed.append((meta.sop_class_uid, meta.sop_instance_uid, reason))


class _Instance:
    """One part of the body on its way to disk, or past it."""

    def __init__(self, services: Services, study: str) -> None:
        self.meta: FileMeta | None = None
        self._services = services
        self._study = study
        self._head = bytearray()
        self._look_at = FIRST_LOOK
        self._keeping: Keeping | None = None
        self._refusal: InstanceRefused | None = None
        self._bytes = 0

    def write(self, piece: memoryview) -> None:
        """Take some bytes. Raises TooLarge."""
        self._bytes += len(piece)
        if self._bytes > 2 * self._services.limits.instance_bytes:
            raise TooLarge("an instance goes on far beyond receiver.max_instance_gb")
        if self._keeping is not None:
            self._keeping.write([piece])
        elif self._refusal is None:
            room = HEAD_BYTES - len(self._head)
            self._head += piece[:room]
            if len(self._head) >= self._look_at:
                self._look_at = min(2 * len(self._head), HEAD_BYTES)
                self._look(last=len(self._head) == HEAD_BYTES)
            if len(piece) > room and self._keeping is not None:
                self._keeping.write([piece[room:]])

    def _look(self, last: bool) -> None:
        """Open the file as soon as the first bytes say enough; `last`: no more of them will be looked at."""
        try:
            self.meta = self.meta or read_meta(self._head)
            if self.meta is None:
                if last:
                    raise InstanceRefused("its File Meta Information is cut or too long", InstanceRefused.UNREADABLE)
                return
            if self._is_known(self.meta, last):
                self._open(self.meta)
        except InstanceRefused as refusal:
            self._refusal = refusal
            self._head.clear()

    def _is_known(self, meta: FileMeta, last: bool) -> bool:
        """Return whether everything that is asked of this instance holds, or may still hold. Raises InstanceRefused."""
        if service_of(meta.sop_class_uid) is not Service.STORAGE:
            raise InstanceRefused("not a storage SOP class", CLASS_NOT_SUPPORTED)
        if meta.transfer_syntax_uid in DEFLATED:
            raise InstanceRefused("a deflated transfer syntax", SYNTAX_NOT_SUPPORTED)
        if not is_uid(meta.transfer_syntax_uid) or not is_uid(meta.sop_class_uid):
            raise InstanceRefused("its transfer syntax or SOP class is not a UID", InstanceRefused.UNREADABLE)
        if not self._study:
            return True
        study = study_of(self._head[meta.length :], meta.transfer_syntax_uid)
        if study is None and not last:
            return False
        if study != self._study:
            raise InstanceRefused("not an instance of the study of the request", InstanceRefused.WRONG_CLASS)
        return True

    def _open(self, meta: FileMeta) -> None:
        command = Command(C_STORE, 0, True, meta.sop_class_uid, meta.sop_instance_uid)
        accepted = Accepted(meta.sop_class_uid, meta.transfer_syntax_uid)
        self._keeping = self._services.begin(command, accepted)
        head = bytes(self._head[meta.length :])
        self._head.clear()
        if head:
            self._keeping.write([memoryview(head)])

    def refuse(self, sentence: str, reason: int) -> None:
        """Let the rest of the part pass."""
        self._refusal = InstanceRefused(sentence, reason)

    def finish(self) -> int:
        """Make the whole instance durable. Returns the failure reason, or success."""
        if self._keeping is None and self._refusal is None:
            self._look(last=True)
        if self._keeping is not None:
            return self._keeping.finish(has_dataset=True)[0]
        assert self._refusal is not None
        self._services.refused(str(self._refusal))
        logger().warning("instance_refused", reason=str(self._refusal), status=f"0x{self._refusal.status:04X}")
        return self._refusal.status

    def close(self) -> None:
        """Drop what is not kept."""
        if self._keeping is not None:
            self._keeping.close()

"""Our Storage SCU: the stored bytes of results, unchanged, to a destination. It never alters what it sends.

Statuses of PS3.4 Table B.2-1: warnings (0xBxxx) and a duplicate (0x0111) count as delivered; out of resources
(0xA7xx) may pass; everything else is a refusal that will not change by itself.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from appliance.errors import NotAccepted, NotKnown, Refused, Unreachable
from appliance.settings import Destination, Settings
from dicom_nodes.contexts import EXPLICIT_LE, IMPLICIT_LE, STORAGE_COMMITMENT_INSTANCE

DUPLICATE = 0x0111
CLASS_NOT_SUPPORTED = 0x0122
QUEUED_S = 0.05
PARKED_LOOKS = 3  # in a row that find pynetdicom's thread waiting
STORAGE_COMMITMENT_ACTION = 1  # action type ID, PS3.4 Annex J.3.2
MOST_CONTEXTS = 128  # of one association, PS3.8 Section 9.3.2.2
REJECTED = (1, 2)  # permanently, for now: PS3.8 Table 9-21
CALLING_AE_UNKNOWN = (1, 3)  # source and reason of A-ASSOCIATE-RJ, PS3.8 Table 9-21

_config.STORE_SEND_CHUNKED_DATASET = True  # a SEG may be large


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a peer."""

    connect_s: float = 10
    answer_s: float = 120  # to one message
    association_s: float = 15  # to be accepted or released


@dataclass(frozen=True)
class Reference:
    """One object by class and UID."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Peer:
    """A DICOM node that is asked, be it no destination."""

    name: str
    ae_title: str
    host: str
    port: int


def our_receiver(settings: Settings) -> Peer:
    """Return our own receiver, as it is reached from this host."""
    place = settings.receiver
    host = "127.0.0.1" if place.host in ("0.0.0.0", "::", "") else place.host
    return Peer("the receiver", place.ae_title, host, place.port)


@contextmanager
def associate(
    destination: Destination | Peer,
    our_ae_title: str,
    contexts: Sequence[Any],
    handlers: Sequence[Any] = (),
    timeouts: Timeouts | None = None,
    **more: Any,
) -> Iterator[Any]:
    """Open an association to a destination and release it at the end. Raises Unreachable."""
    ae = AE(ae_title=our_ae_title)
    ae.maximum_pdu_size = 131072
    timeouts = timeouts or Timeouts()
    ae.connection_timeout, ae.dimse_timeout = timeouts.connect_s, timeouts.answer_s
    ae.acse_timeout = timeouts.association_s
    owed = _Owed() if handlers else None
    association = ae.associate(
        destination.host or "",
        destination.port,
        contexts=list(contexts),
        ae_title=destination.ae_title or "",
        evt_handlers=[*handlers, *(owed.handlers if owed else ())],
        **more,
    )
    if not association.is_established:
        if association.rejected_contexts and not association.accepted_contexts:
            names = ", ".join(sorted({UID(str(c.abstract_syntax)).name for c in association.rejected_contexts}))
            raise NotAccepted(f"{destination.name} accepts none of: {names}")
        raise _why_not(association, destination)
    parked = _park(association) if not handlers else None
    try:
        yield association
    finally:
        if owed is not None:
            owed.settle(association, timeouts.association_s)
        _release(association, timeouts.association_s)
        if parked is not None:
            parked.end()


def _release(association: Any, longest_s: float) -> None:
    """Release; what pynetdicom waits for may be overwritten by the thread that served a report: not for ever, then."""
    freeing = threading.Timer(longest_s, setattr, (association, "_is_paused", True))
    freeing.daemon = True
    freeing.start()
    try:
        association.release()
    finally:
        freeing.cancel()


class _Owed:
    """The peer's reports that are not answered yet.

    pynetdicom serves a report beside us: a release that overtakes its answer ends in a state that its machine does not
    bear, the peer hears nothing, and the release may wait for ever.
    """

    def __init__(self) -> None:
        self.reports: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.handlers = [(evt.EVT_DIMSE_RECV, self._received), (evt.EVT_DIMSE_SENT, self._sent)]

    def _received(self, event: Any) -> None:
        if type(event.message).__name__ == "N_EVENT_REPORT_RQ":
            self.reports.put(None)

    def _sent(self, event: Any) -> None:
        if type(event.message).__name__ == "N_EVENT_REPORT_RSP":
            self.answers.put(None)

    def settle(self, association: Any, longest_s: float) -> None:
        """Wait until all are answered; end the association where that takes too long."""
        deadline = time.monotonic() + longest_s
        while association.is_established and self.answers.qsize() < self.reports.qsize():
            if time.monotonic() > deadline:
                association.abort(block=False)
                return
            time.sleep(0.01)
        time.sleep(QUEUED_S)  # an answer is told of just before it is queued


class _Parked(threading.Event):
    """A checkpoint that stays closed until the association is over."""

    def set(self) -> None:
        """Stay closed: between two messages nobody may read."""

    def end(self) -> None:
        """Let the thread that waits here go, and end."""
        super().set()


def _park(association: Any) -> _Parked:
    """Keep pynetdicom's own thread from reading what a peer answers to us.

    Between two messages it looks for requests of the peer. A peer that answers at once may answer while it looks:
    then it takes the response, throws it away, and our call waits in vain (seen with pynetdicom 3.0.4 against our
    own receiver). Where the peer may ask something itself, there are handlers, and the thread goes on.
    """
    parked = _Parked()
    association._reactor_checkpoint = parked
    still = 0
    while still < PARKED_LOOKS and association.is_established:
        time.sleep(0.005)
        still = still + 1 if association._is_paused else 0
    return parked


def rejection(association: Any) -> Any | None:
    """Return the A-ASSOCIATE response that turned us down, None where there is none.

    pynetdicom 3.0.4 overlooks one that comes, and closes the connection, before it has looked whether it is connected:
    the answer stays in its queue, and the association counts as aborted.
    """
    if association.is_rejected:
        return association.acceptor.primitive
    left = association.dul.receive_pdu() if association.is_aborted else None
    return left if getattr(left, "result", None) in REJECTED else None


def _why_not(association: Any, destination: Destination | Peer) -> Unreachable:
    where = f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"
    answer = rejection(association)
    if answer is not None:
        why = (answer.result_source, answer.diagnostic)
        texts = {
            CALLING_AE_UNKNOWN: "does not know our AE title; have it added there",
            (1, 7): "does not call itself by that AE title; check ae_title",
        }
        text = texts.get(why, "rejected the association")
        kind = NotKnown if why == CALLING_AE_UNKNOWN else Unreachable
        return kind(f"{where} {text} (result {answer.result}, source {why[0]}, reason {why[1]})")
    return Unreachable(f"{where} does not answer; is it running, and are host and port right?")


def echo(destination: Destination | Peer, our_ae_title: str) -> None:
    """Send one C-ECHO. Raises Unreachable or Refused."""
    with associate(destination, our_ae_title, [proposal(Verification)]) as association:
        status = status_of(association.send_c_echo())
    if status != 0x0000:
        raise Refused(f"{destination.name} answered C-ECHO with status 0x{status:04X}", status)


def status_of(answer: Any) -> int:
    """Return the status of a response; a dataset without one means that the peer went away."""
    if not answer or "Status" not in answer:
        raise Unreachable("the destination went away in mid-message")
    return int(answer.Status)


def proposal(uid: str) -> Any:
    """Return the presentation context of a service: with the transfer syntaxes that the conformance statement names."""
    return build_context(uid, [EXPLICIT_LE, IMPLICIT_LE])


def storage_contexts(sop_class_uids: Sequence[str]) -> list[Any]:
    """Return a presentation context for each SOP class and uncompressed syntax, so that each is answered by itself."""
    return [build_context(uid, syntax) for uid in sorted(set(sop_class_uids)) for syntax in (EXPLICIT_LE, IMPLICIT_LE)]


def exact_contexts(pairs: Iterable[tuple[str, str]]) -> list[Any]:
    """Return a presentation context for each SOP class and transfer syntax, as many as an association may have."""
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs][:MOST_CONTEXTS]


def accepts(association: Any, sop_class_uid: str) -> bool:
    """Tell whether the peer accepted a SOP class on an open association."""
    return any(context.abstract_syntax == sop_class_uid for context in association.accepted_contexts)


def store(association: Any, sop_class_uid: str, path: Path) -> str:
    """Send one file on an open association; return the answer in words. Raises Refused or Unreachable."""
    accepted = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == sop_class_uid
    }
    if not accepted:
        raise NotAccepted(f"does not accept SOP class {UID(sop_class_uid).name}")
    if not association.is_established:
        raise Unreachable("the association ended")
    # our files are Explicit VR Little Endian; a peer that takes Implicit alone gets the same values so encoded
    as_is = EXPLICIT_LE in accepted
    status = status_of(association.send_c_store(path if as_is else dcmread(path)))
    if status == 0x0000 or status == DUPLICATE or status >> 12 == 0xB:
        return f"0x{status:04X}" if as_is else f"0x{status:04X}, as Implicit VR Little Endian: it takes no Explicit VR"
    if status >> 8 == 0xA7:
        raise Unreachable(f"out of resources (status 0x{status:04X})")
    if status == CLASS_NOT_SUPPORTED:
        raise NotAccepted(f"answered C-STORE with status 0x{status:04X}: it takes no such objects", status)
    raise Refused(f"answered C-STORE with status 0x{status:04X}", status)


def store_as_is(association: Any, path: Path) -> None:
    """Send one file of any class in the transfer syntax it has. Raises Refused or Unreachable."""
    status = status_of(association.send_c_store(path))
    if status != 0x0000:
        raise Refused(f"answered C-STORE with status 0x{status:04X}", status)


def commitment_context() -> Any:
    """Return the presentation context of Storage Commitment."""
    return proposal(StorageCommitmentPushModel)


@contextmanager
def commitment_association(
    destination: Destination, our_ae_title: str, on_report: Callable[[Any], tuple[int, None]]
) -> Iterator[Any]:
    """Open an association on which commitment is asked for, and may be reported (PS3.7 Annex D.3.3.4)."""
    roles = [build_role(StorageCommitmentPushModel, scu_role=True, scp_role=True)]
    reports = [(evt.EVT_N_EVENT_REPORT, on_report)]
    with associate(destination, our_ae_title, [commitment_context()], reports, ext_neg=roles) as association:
        yield association


def ask_commitment(association: Any, transaction_uid: str, objects: Sequence[Reference]) -> None:
    """Send N-ACTION of Storage Commitment (PS3.4 Annex J.3.2). Raises Refused or Unreachable."""
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = []
    for one in objects:
        item = Dataset()
        item.ReferencedSOPClassUID = one.sop_class_uid
        item.ReferencedSOPInstanceUID = one.sop_instance_uid
        request.ReferencedSOPSequence.append(item)
    answer, _ = association.send_n_action(
        request, STORAGE_COMMITMENT_ACTION, StorageCommitmentPushModel, STORAGE_COMMITMENT_INSTANCE
    )
    status = status_of(answer)
    if status != 0x0000:
        raise Refused(f"answered the commitment request with status 0x{status:04X}", status)


def series_contexts(paths: Sequence[Path]) -> list[Any]:
    """Return the contexts that files of any class and transfer syntax need, for sending them as they are."""
    wanted: set[tuple[str, str]] = set()
    for path in paths:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).file_meta
        wanted.add((str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)))
    return exact_contexts(sorted(wanted))

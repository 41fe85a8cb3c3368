"""Our Query/Retrieve SCU by C-GET: a study of a source, each instance handed to our receiver as it came.

PS3.4 Annex C.4.3. The source gets the status that our receiver gave. It must never count what the receiver did not make
durable, never change a byte of a data set, and never hold more than one instance.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import build_role, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet  # type: ignore[attr-defined]

from appliance.errors import (
    CurieError,
    DeliveryFailed,
    InstanceRefused,
    Missing,
    NotAccepted,
    NotKnown,
    Refused,
)
from appliance.settings import Settings
from dicom_nodes import sender
from dicom_nodes.admission import entry_of
from dicom_nodes.contexts import UNCOMPRESSED, is_document
from dicom_nodes.deadlines import IDLE_S
from dicom_nodes.retrieve import MOVING, Moved, classes_of, code_of

GET = StudyRootQueryRetrieveInformationModelGet
PROCESSING_FAILURE = 0x0110
JPEG = "1.2.840.10008.1.2.4"
# what is asked for, the most usual first, where the limit of contexts cuts off; deflated ones are not taken
SYNTAXES = (
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", f"{JPEG}.70", f"{JPEG}.90", f"{JPEG}.50", f"{JPEG}.91",
    "1.2.840.10008.1.2.5", f"{JPEG}.80", f"{JPEG}.51", f"{JPEG}.201", f"{JPEG}.202", f"{JPEG}.203", f"{JPEG}.57",
    f"{JPEG}.81", f"{JPEG}.102", f"{JPEG}.103", f"{JPEG}.100", f"{JPEG}.101", f"{JPEG}.107", f"{JPEG}.108",
    "1.2.840.10008.1.2.2",
)  # fmt: skip
# what is asked for of a source that does not name the SOP Classes in Study
USUAL = tuple(f"1.2.840.10008.5.1.4.1.1.{one}" for one in (
    "2", "4", "2.1", "4.1", "1.1", "1", "1.2", "13.1.3", "6.1", "3.1", "128", "20", "7",
    "88.67", "88.33", "88.59", "11.1", "66.4",
))  # fmt: skip


def wanted(named: Sequence[str]) -> list[tuple[str, str]]:
    """Return SOP classes and transfer syntaxes to propose beside C-GET, for the classes that a source names."""
    pairs = [(uid, one) for one in SYNTAXES for uid in named or USUAL if named or _usual(uid, one)]
    return pairs[: sender.MOST_CONTEXTS - 1]


def _usual(sop_class_uid: str, syntax: str) -> bool:
    return syntax in UNCOMPRESSED or not is_document(sop_class_uid)


def get(settings: Settings, source: sender.Peer, study_uid: str) -> Moved:
    """Bring a study to our receiver. Raises Missing where that takes nothing of ours, else Unreachable or Refused."""
    title = settings.sender.ae_title
    pairs = wanted(classes_of(source, title, study_uid))
    roles = [build_role(uid, scp_role=True) for uid in sorted({uid for uid, _ in pairs})]  # PS3.7 Annex D.3.3.4
    contexts = [sender.proposal(GET), *sender.exact_contexts(pairs)]
    with Handing(settings) as handing:
        handlers = [(evt.EVT_C_STORE, handing.stored)]
        with sender.associate(source, title, contexts, handlers, MOVING, ext_neg=roles) as association:
            if not sender.accepts(association, GET):
                raise NotAccepted(f"{source.name} does not accept C-GET")
            handing.open([one for one in association.accepted_contexts if one.as_scp], source)
            failed = _ask(association, source, study_uid, handing)
        return Moved(handing.kept, failed)


def _ask(association: Any, source: sender.Peer, study_uid: str, handing: Handing) -> int:
    """Ask, serve until all has come, and return how many the source could not send. Raises Unreachable or Refused."""
    question = Dataset()
    question.QueryRetrieveLevel = "STUDY"
    question.StudyInstanceUID = study_uid
    last: Any = None
    try:
        for last, _ in association.send_c_get(question, GET):
            if handing.lost is not None:
                association.abort()
                break
            code_of(source, last, "C-GET")
    except DeliveryFailed:
        handing.complain()  # that says more than a source which only counts
        raise
    handing.complain()
    return int(last.get("NumberOfFailedSuboperations", 0) or 0)


class Handing:
    """Hands each instance to our receiver, over one association that lasts as long as the study."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.receiver = settings, sender.our_receiver(settings)
        self.kept = 0
        self.refused: list[int] = []  # statuses of our receiver
        self.lost: CurieError | None = None  # our receiver is not there any more
        self._way = ExitStack()
        self._pairs: list[tuple[str, str]] = []
        self._association: Any = None
        self._used, self._broken = 0.0, False

    def __enter__(self) -> Handing:
        return self

    def __exit__(self, *_: object) -> None:
        self._way.close()

    def open(self, accepted: Sequence[Any], source: sender.Peer) -> None:
        """Open the way for what the source may send. Raises NotAccepted, Missing or Unreachable."""
        if not accepted:
            raise NotAccepted(f"{source.name} accepts C-GET, but no storage class in the role that it needs")
        self._pairs = [(str(one.abstract_syntax), str(one.transfer_syntax[0])) for one in accepted]
        self._open()

    def _open(self) -> None:
        self._way.close()
        title = self.settings.sender.ae_title
        try:
            to_receiver = sender.associate(self.receiver, title, sender.exact_contexts(self._pairs))
            self._association = self._way.enter_context(to_receiver)
        except (NotAccepted, NotKnown):
            entry = entry_of(title, self.receiver.host)
            raise Missing(
                f"our receiver takes no images from {title} on this host: add {entry}, then start the receiver anew"
            ) from None
        self._used, self._broken = time.monotonic(), False

    def stored(self, event: Any) -> int:
        """Answer a C-STORE of the source with what our receiver says of the same bytes."""
        if self.lost is not None:
            return PROCESSING_FAILURE
        if event.request.DataSet is None:
            return InstanceRefused.UNREADABLE
        try:
            status = self._pass_on(event)
        except CurieError as error:
            self.lost = error
            return PROCESSING_FAILURE
        except OSError:  # no space for the copy
            status = InstanceRefused.OUT_OF_STORAGE
        if status == 0x0000:
            self.kept += 1
        else:
            self.refused.append(status)
        return status

    def _pass_on(self, event: Any) -> int:
        with tempfile.TemporaryFile(dir=self.settings.data_dir) as file:  # has no name: it ends with this process
            file.write(event.encoded_dataset())
            file.flush()
            slow = time.monotonic() - self._used > IDLE_S / 2  # our receiver waits for no slow source
            if slow or self._broken or not self._association.is_established:
                self._open()
            answer = self._association.send_c_store(Path(f"/proc/self/fd/{file.fileno()}"))
        self._used, self._broken = time.monotonic(), "Status" not in answer
        return PROCESSING_FAILURE if self._broken else int(answer.Status)

    def complain(self) -> None:
        """Raise what our receiver had against it: Unreachable, Missing or Refused."""
        if self.lost is not None:
            raise self.lost
        if self.refused:
            status = self.refused[0]
            told = f"our receiver kept {self.kept} and refused {len(self.refused)} with status 0x{status:04X}"
            raise Refused(told, status)

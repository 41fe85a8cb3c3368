"""Our Query/Retrieve SCU: which studies a source has of a day, and C-MOVE of one to our receiver (PS3.4 Annex C).

Images come in by the receiver, as all others do: nothing is stored here. `fetch` asks for them by C-GET.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydicom import Dataset
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from appliance.errors import Refused, Unreachable
from dicom_nodes.contexts import Service, is_uid, service_of
from dicom_nodes.header import whole_between
from dicom_nodes.query import PENDING, STUDY_RELATED_INSTANCES, STUDY_UID
from dicom_nodes.sender import Peer, Timeouts, associate, proposal
from dicom_nodes.values import text

MODALITIES = 0x00080061
SOP_CLASSES = 0x00080062
MOST_STUDIES = 20_000  # of one day
WARNING_FAILURES = 0xB000  # sub-operations complete, one or more failures
ASKING = Timeouts(answer_s=60)
MOVING = Timeouts(answer_s=600)  # until the next word of a C-MOVE; some say none before the end


@dataclass(frozen=True)
class FoundStudy:
    """A study that a source has."""

    uid: str
    instances: int | None  # as the source says, results among them
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class Moved:
    """How a C-MOVE or C-GET went."""

    completed: int  # as the source says; by C-GET: what our receiver made durable
    failed: int


def studies_of_day(source: Peer, our_ae_title: str, day: date) -> list[FoundStudy]:
    """Return the studies whose Study Date (0008,0020) is this day. Raises Unreachable or Refused."""
    question = Dataset()
    question.QueryRetrieveLevel = "STUDY"
    question.StudyDate = f"{day:%Y%m%d}"
    question.StudyInstanceUID = ""
    question.NumberOfStudyRelatedInstances = None
    question.ModalitiesInStudy = None
    context = proposal(StudyRootQueryRetrieveInformationModelFind)
    with associate(source, our_ae_title, [context], timeouts=ASKING) as association:
        responses = association.send_c_find(question, StudyRootQueryRetrieveInformationModelFind)
        return list(_studies(source, responses))


def _studies(source: Peer, responses: Any) -> Iterator[FoundStudy]:
    for count, (status, identifier) in enumerate(responses):
        code = code_of(source, status, "C-FIND")
        if code not in PENDING:
            return
        if count >= MOST_STUDIES:
            raise Refused(f"{source.name} names more than {MOST_STUDIES} studies of one day", code)
        uid = text(identifier, STUDY_UID) if identifier is not None else ""
        if is_uid(uid):
            number = whole_between(identifier, STUDY_RELATED_INSTANCES, 1, 1_000_000)
            yield FoundStudy(uid, number, tuple(text(identifier, MODALITIES).split("\\")))


def classes_of(source: Peer, our_ae_title: str, study_uid: str) -> list[str]:
    """Return the SOP Classes in Study (0008,0062), none where the source does not say. Raises Unreachable."""
    question = Dataset()
    question.QueryRetrieveLevel = "STUDY"
    question.StudyInstanceUID = study_uid
    question.SOPClassesInStudy = ""
    context = proposal(StudyRootQueryRetrieveInformationModelFind)
    found: set[str] = set()
    with associate(source, our_ae_title, [context], timeouts=ASKING) as association, suppress(Refused):
        for status, identifier in association.send_c_find(question, StudyRootQueryRetrieveInformationModelFind):
            code_of(source, status, "C-FIND")
            if identifier is not None and text(identifier, STUDY_UID) == study_uid:
                found |= set(text(identifier, SOP_CLASSES).split("\\"))
    return sorted(uid for uid in found if is_uid(uid) and service_of(uid) is Service.STORAGE)


def code_of(source: Peer, status: Any, asked: str) -> int:
    """Return the status of a response that is no failure. Raises Unreachable or Refused."""
    if not status or "Status" not in status:
        raise Unreachable(f"{source.name} went away in the middle of {asked}")
    code = int(status.Status)
    if code not in (*PENDING, 0x0000, WARNING_FAILURES):
        raise Refused(f"{source.name} answered {asked} with status 0x{code:04X}", code)
    return code


def move(source: Peer, our_ae_title: str, study_uid: str, to_ae_title: str) -> Moved:
    """Ask a source to send a study to an AE title it knows; returns when it is done. Raises Unreachable or Refused."""
    question = Dataset()
    question.QueryRetrieveLevel = "STUDY"
    question.StudyInstanceUID = study_uid
    context = proposal(StudyRootQueryRetrieveInformationModelMove)
    last: Any = None
    with associate(source, our_ae_title, [context], timeouts=MOVING) as association:
        model = StudyRootQueryRetrieveInformationModelMove
        for status, _ in association.send_c_move(question, to_ae_title, model):
            code_of(source, status, "C-MOVE")
            last = status
    done, failed = (int(last.get(f"NumberOf{word}Suboperations", 0) or 0) for word in ("Completed", "Failed"))
    return Moved(done + int(last.get("NumberOfWarningSuboperations", 0) or 0), failed)

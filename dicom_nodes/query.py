"""Our Query SCU: how many instances a PACS holds of a study, and whose it is (PS3.4 Annex C, Study Root).

A PACS may take its time or lie: waits are short, answers few, and only a count for the very study is believed.
"""

from __future__ import annotations

import uuid
from typing import Any

from pydicom import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from appliance.errors import Refused, Unreachable
from appliance.settings import Destination
from dicom_nodes.header import whole_between
from dicom_nodes.sender import Timeouts, associate, proposal
from dicom_nodes.source import UNICODE
from dicom_nodes.values import text

STUDY_UID, STUDY_RELATED_INSTANCES = 0x0020000D, 0x00201208
PATIENT_ID, PATIENT_NAME = 0x00100020, 0x00100010
PENDING = (0xFF00, 0xFF01)  # PS3.4 Table C.4-1
SHORT = Timeouts(connect_s=3, answer_s=5, association_s=5)
MOST_ANSWERS = 20
NOBODY_S = f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, 'petite-curie:no study').int}"


def count_instances(destination: Destination, our_ae_title: str, study_uid: str) -> int | None:
    """Return the Number of Study Related Instances (0020,1208) of a study; None where the PACS says none.

    Raises Unreachable or Refused.
    """
    question = _about(study_uid)
    question.NumberOfStudyRelatedInstances = None
    found = None
    for answer in _answers(destination, our_ae_title, question, study_uid):
        found = whole_between(answer, STUDY_RELATED_INSTANCES, 1, 1_000_000) or found
    return found


def patient_of(destination: Destination, our_ae_title: str, study_uid: str) -> tuple[str, str] | None:
    """Return Patient ID and Patient's Name that a PACS has for a study; None where it does not know the study.

    Raises Unreachable or Refused.
    """
    question = _about(study_uid)
    question.PatientID = question.PatientName = None
    question.SpecificCharacterSet = UNICODE
    found = None
    for answer in _answers(destination, our_ae_title, question, study_uid):
        found = (text(answer, PATIENT_ID).strip(), text(answer, PATIENT_NAME).strip())
    return found


def probe(destination: Destination, our_ae_title: str) -> str:
    """Ask about a study that nobody has; returns the answer in words. Raises Unreachable or Refused."""
    patient_of(destination, our_ae_title, NOBODY_S)
    return "answers C-FIND"


def remedy(our_ae_title: str) -> str:
    """Return what ends a refusal of our questions."""
    return f"Let the PACS accept C-FIND from {our_ae_title}, or set find = false"


def same_patient(ours: tuple[str, str], theirs: tuple[str, str]) -> bool:
    """Tell whether ID and name are one patient's: letter case, empty components and spaces say nothing."""
    return all(_plain(one) == _plain(two) for one, two in zip(ours, theirs, strict=True))


def _plain(value: str) -> str:
    groups = (group.casefold().rstrip("^ ") for group in value.split("="))
    return "=".join("^".join(part.strip() for part in group.split("^")) for group in groups).rstrip("=")


def _about(study_uid: str) -> Dataset:
    question = Dataset()
    question.QueryRetrieveLevel = "STUDY"
    question.StudyInstanceUID = study_uid
    return question


def _answers(destination: Destination, our_ae_title: str, question: Dataset, study_uid: str) -> list[Dataset]:
    """Return what a PACS answers about this very study. Raises Unreachable or Refused."""
    context = proposal(StudyRootQueryRetrieveInformationModelFind)
    with associate(destination, our_ae_title, [context], timeouts=SHORT) as association:
        responses = association.send_c_find(question, StudyRootQueryRetrieveInformationModelFind)
        return _matching(responses, study_uid)


def _matching(responses: Any, study_uid: str) -> list[Dataset]:
    found: list[Dataset] = []
    for _, (status, identifier) in zip(range(MOST_ANSWERS), responses, strict=False):
        if not status or "Status" not in status:
            raise Unreachable("the PACS went away in mid-query")
        if status.Status not in PENDING:
            if status.Status != 0x0000:
                raise Refused(f"answered C-FIND with status 0x{status.Status:04X}", status.Status)
            return found
        if identifier is not None and text(identifier, STUDY_UID) == study_uid:
            found.append(identifier)
    raise Refused("answers a question about one study with many")

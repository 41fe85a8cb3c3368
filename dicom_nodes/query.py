"""Our Query SCU: how many instances a PACS holds of a study (PS3.4 Annex C, Study Root). It asks for nothing else.

A PACS may take its time or lie: waits are short, answers few, and only a count for the very study is believed.
"""

from __future__ import annotations

from typing import Any

from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from appliance.errors import Refused, Unreachable
from appliance.settings import Destination
from dicom_nodes.contexts import EXPLICIT_LE, IMPLICIT_LE
from dicom_nodes.header import whole_between
from dicom_nodes.sender import Timeouts, associate
from dicom_nodes.values import text

STUDY_UID, STUDY_RELATED_INSTANCES = 0x0020000D, 0x00201208
PENDING = (0xFF00, 0xFF01)  # PS3.4 Table C.4-1
SHORT = Timeouts(connect_s=3, answer_s=5, association_s=5)
MOST_ANSWERS = 20


def count_instances(destination: Destination, our_ae_title: str, study_uid: str) -> int | None:
    """Return the Number of Study Related Instances (0020,1208) of a study; None where the PACS says none.

    Raises Unreachable or Refused.
    """
    question = Dataset()
    question.QueryRetrieveLevel = "STUDY"
    question.StudyInstanceUID = study_uid
    question.NumberOfStudyRelatedInstances = None
    context = build_context(StudyRootQueryRetrieveInformationModelFind, [EXPLICIT_LE, IMPLICIT_LE])
    with associate(destination, our_ae_title, [context], timeouts=SHORT) as association:
        answers = association.send_c_find(question, StudyRootQueryRetrieveInformationModelFind)
        return _count(answers, study_uid)


def _count(answers: Any, study_uid: str) -> int | None:
    found = None
    for _, (status, identifier) in zip(range(MOST_ANSWERS), answers, strict=False):
        if not status or "Status" not in status:
            raise Unreachable("the PACS went away in mid-query")
        if status.Status not in PENDING:
            if status.Status != 0x0000:
                raise Refused(f"answered C-FIND with status 0x{status.Status:04X}", status.Status)
            return found
        if identifier is not None and text(identifier, STUDY_UID) == study_uid:
            found = whole_between(identifier, STUDY_RELATED_INSTANCES, 1, 1_000_000) or found
    raise Refused("answers a question about one study with many")

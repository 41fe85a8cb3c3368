"""What a destination has of what we sent: by C-FIND or QIDO-RS which instances, by C-GET what is in them.

PS3.4 Annex C, PS3.18 section 10.6. It must never write what it gets: it is compared and dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pynetdicom import build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from appliance.errors import NotAccepted, Refused, Unreachable
from appliance.settings import Destination
from dicom_nodes.query import PENDING
from dicom_nodes.sender import Peer, Timeouts, associate, proposal, storage_contexts
from dicom_nodes.values import text
from dicom_nodes.web import ask, refusal

SOP_INSTANCE_UID = 0x00080018
MOST = 1000
READING = Timeouts(answer_s=60)


def instances_of(destination: Destination, our_ae_title: str, study: str, series: str) -> set[str]:
    """Return the SOP Instance UIDs that a destination has of a series. Raises Unreachable or Refused."""
    if destination.url:
        return _by_web(destination, f"/studies/{study}/series/{series}/instances")
    question = Dataset()
    question.QueryRetrieveLevel = "IMAGE"
    question.StudyInstanceUID, question.SeriesInstanceUID, question.SOPInstanceUID = study, series, ""
    context = proposal(StudyRootQueryRetrieveInformationModelFind)
    found = set()
    with associate(destination, our_ae_title, [context], timeouts=READING) as association:
        answers = association.send_c_find(question, StudyRootQueryRetrieveInformationModelFind)
        for _, (status, identifier) in zip(range(MOST), answers, strict=False):
            if _code(destination, status, "C-FIND") not in PENDING:
                break
            if identifier is not None:
                found.add(text(identifier, SOP_INSTANCE_UID))
    return found


def _by_web(destination: Destination, path: str) -> set[str]:
    answer = ask(destination, destination.url or "", "GET", path, query=[("limit", str(MOST))])
    if answer.status == 204:
        return set()
    if answer.status != 200:
        raise refusal(destination, answer.status, "QIDO-RS")
    try:
        return {str(one[f"{SOP_INSTANCE_UID:08X}"]["Value"][0]) for one in answer.json()}
    except (ValueError, KeyError, IndexError, TypeError):
        raise Refused(f"{destination.name} answered QIDO-RS with something else than DICOM JSON") from None


def _code(destination: Destination, status: Any, asked: str) -> int:
    if not status or "Status" not in status:
        raise Unreachable(f"{destination.name} went away in the middle of {asked}")
    code = int(status.Status)
    if code not in (*PENDING, 0x0000):
        raise Refused(f"{destination.name} answered {asked} with status 0x{code:04X}", code)
    return code


def get(destination: Destination, our_ae_title: str, study: str, sop_class_uids: Sequence[str]) -> dict[str, Dataset]:
    """Return the instances of these classes that a destination gives of a study, by UID. Raises DeliveryFailed."""
    found: dict[str, Dataset] = {}

    def stored(event: Any) -> int:
        found[str(event.request.AffectedSOPInstanceUID)] = event.dataset
        return 0x0000

    question = Dataset()
    question.QueryRetrieveLevel = "STUDY"
    question.StudyInstanceUID = study
    model = StudyRootQueryRetrieveInformationModelGet
    contexts = [proposal(model), *storage_contexts(sop_class_uids)]
    roles = [build_role(uid, scp_role=True) for uid in sop_class_uids]
    peer = Peer(destination.name, destination.ae_title or "", destination.host or "", destination.port or 0)
    handlers = [(evt.EVT_C_STORE, stored)]
    with associate(peer, our_ae_title, contexts, handlers, READING, ext_neg=roles) as association:
        if not any(one.abstract_syntax == model for one in association.accepted_contexts):
            raise NotAccepted(f"{destination.name} does not accept C-GET")
        for status, _ in association.send_c_get(question, model):
            _code(destination, status, "C-GET")
    return found


def is_same(found: Dataset | None, path: Path) -> bool:
    """Tell whether an instance that was fetched has the elements of a stored file, value for value."""
    return found is not None and found == dcmread(path)

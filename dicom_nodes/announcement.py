"""What acknowledged messages mean: storage commitment reports, procedure steps, availability of instances.

Modality Performed Procedure Step (PS3.4 Annex F.7) as N-CREATE and N-SET, Instance Availability Notification (PS3.4
Annex R) as N-CREATE, Storage Commitment (PS3.4 Annex J.3.3) as N-EVENT-REPORT. Nothing here may raise anything but
ValueError for what a message holds, nor name a patient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset
from sqlalchemy import Connection

from appliance.catalogue import announcements
from appliance.catalogue.announcements import Availability, ProcedureStep
from dicom_nodes.commitment import Report, read_report, write_report
from dicom_nodes.contexts import IAN, MPPS, STORAGE_COMMITMENT, is_uid
from dicom_nodes.message import Message, read_dataset_of, read_message
from dicom_nodes.values import items, text

STUDY_UID, STEP_STATUS, STEP_STUDIES, STEP_SERIES = 0x0020000D, 0x00400252, 0x00400270, 0x00400340
IMAGES, NON_IMAGES = 0x00081140, 0x00400220  # in an item of the Performed Series Sequence
REFERENCED_SERIES, REFERENCED_SOPS = 0x00081115, 0x00081199
REFERENCED_INSTANCE, AVAILABILITY = 0x00081155, 0x00080056
STATES = (announcements.IN_PROGRESS, announcements.COMPLETED, announcements.DISCONTINUED)


@dataclass(frozen=True)
class Meaning:
    """What a message says, and when it came."""

    what: Report | ProcedureStep | Availability
    at: datetime


def read(folder: Path, path: str) -> Meaning:
    """Return what a message of the spool `folder` means. Raises ValueError with a reason, FileNotFoundError."""
    message = read_message(folder, path)
    try:
        at = datetime.fromisoformat(message.received_at)
        return Meaning(_interpret(message), at if at.tzinfo else at.replace(tzinfo=UTC))
    except ValueError:
        raise
    except Exception as error:  # whatever a dataset does to its reader
        raise ValueError(f"its dataset cannot be understood ({type(error).__name__})") from error


def write(connection: Connection, meaning: Meaning) -> None:
    """Write what a message means; the same one again changes nothing."""
    if isinstance(meaning.what, Report):
        write_report(connection, meaning.what, meaning.at)
    elif isinstance(meaning.what, ProcedureStep):
        announcements.apply_step(connection, meaning.what, meaning.at)
    else:
        announcements.apply_availability(connection, meaning.what, meaning.at)


def _interpret(message: Message) -> Report | ProcedureStep | Availability:
    kind = (message.sop_class_uid, message.command)
    ds = read_dataset_of(message)
    if kind == (STORAGE_COMMITMENT, "N-EVENT-REPORT"):
        return read_report(ds, message.calling_ae_title, message.event_type)
    if kind in ((MPPS, "N-CREATE"), (MPPS, "N-SET")):
        return _step(ds, message.sop_instance_uid)
    if kind == (IAN, "N-CREATE"):
        return _availability(ds, message.sop_instance_uid)
    raise ValueError("nothing here takes this command of this SOP class")


def _step(ds: Dataset, uid: str) -> ProcedureStep:
    """Return what a procedure step says (PS3.4 Table F.7.2-1)."""
    if not is_uid(uid):
        raise ValueError("the procedure step has no SOP Instance UID")
    studies = {text(item, STUDY_UID) for item in items(ds, STEP_STUDIES)}
    state = text(ds, STEP_STATUS).upper()
    performed = items(ds, STEP_SERIES)
    named = [uid for one in performed for tag in (IMAGES, NON_IMAGES) for uid in _instances(items(one, tag))]
    return ProcedureStep(
        sop_instance_uid=uid,
        study_instance_uids=tuple(sorted(uid for uid in studies if is_uid(uid))),
        state=state if state in STATES else "",
        instances=tuple(named) if performed else None,
    )


def _availability(ds: Dataset, uid: str) -> Availability:
    """Return what a notification says (PS3.4 Table R.3.2-1)."""
    study = text(ds, STUDY_UID)
    if not is_uid(study):
        raise ValueError("the notification names no study")
    named = [item for one in items(ds, REFERENCED_SERIES) for item in items(one, REFERENCED_SOPS)]
    gone = [item for item in named if text(item, AVAILABILITY).upper() == "UNAVAILABLE"]
    here = [item for item in named if text(item, AVAILABILITY).upper() != "UNAVAILABLE"]
    by = uid if is_uid(uid) else study
    return Availability(by, study, tuple(_instances(here)), tuple(_instances(gone)))


def _instances(references: list[Dataset]) -> Iterator[str]:
    for item in references:
        uid = text(item, REFERENCED_INSTANCE)
        if is_uid(uid):
            yield uid

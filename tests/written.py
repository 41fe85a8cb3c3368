"""Datasets of messages as bytes, and the messages that tests send."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_nodes.contexts import EXPLICIT_LE, IAN, MPPS, STORAGE_COMMITMENT
from dicom_nodes.message import Message
from tests.phantoms import quiet

AT = "2026-01-01T10:00:00+00:00"


@quiet()
def written(ds: Dataset, implicit: bool = False, little: bool = True) -> bytes:
    """Return a dataset encoded without a file around it."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
    write_dataset(buffer, ds)
    return buffer.getvalue()


@quiet()
def references(uids: Sequence[str], availability: str = "") -> list[Dataset]:
    """Return items that reference images."""
    found = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
        if availability:
            item.InstanceAvailability = availability
        found.append(item)
    return found


@quiet()
def sent(command: str, sop_class: str, uid: str, ds: Dataset, event_type: int | None = None) -> Message:
    """Return a message as the receiver keeps it."""
    return Message(command, sop_class, uid, event_type, EXPLICIT_LE, "PACS", "127.0.0.1", AT, written(ds))


@quiet()
def notification(study: str, *groups: list[Dataset], uid: str = "8.1") -> Message:
    """Return an Instance Availability Notification; each group is the references of one series."""
    ds = Dataset()
    ds.StudyInstanceUID = study
    ds.ReferencedSeriesSequence = []
    for group in groups:
        item = Dataset()
        item.SeriesInstanceUID = "1.9"
        item.ReferencedSOPSequence = group
        ds.ReferencedSeriesSequence.append(item)
    return sent("N-CREATE", IAN, uid, ds)


@quiet()
def step(
    command: str, state: str, studies: Sequence[str] = (), images: Sequence[str] = (), uid: str = "9.1"
) -> Message:
    """Return an N-CREATE or N-SET of a procedure step."""
    ds = Dataset()
    ds.PerformedProcedureStepStatus = state
    if studies:
        ds.ScheduledStepAttributesSequence = [Dataset() for _ in studies]
        for item, study in zip(ds.ScheduledStepAttributesSequence, studies, strict=True):
            item.StudyInstanceUID = study
    if images:
        series = Dataset()
        series.SeriesInstanceUID = "1.9"
        series.ReferencedImageSequence = references(images[:-1])
        series.ReferencedNonImageCompositeSOPInstanceSequence = references(images[-1:])
        ds.PerformedSeriesSequence = [series]
    return sent(command, MPPS, uid, ds)


@quiet()
def commitment_report(transaction: str, stored: Sequence[str], failed: Sequence[str] = ()) -> Message:
    """Return a report of storage commitment."""
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = references(stored)
    if failed:
        ds.FailedSOPSequence = references(failed)
        for item in ds.FailedSOPSequence:
            item.FailureReason = 0x0112
    return sent("N-EVENT-REPORT", STORAGE_COMMITMENT, "1.2.840.10008.1.20.1.1", ds, 2 if failed else 1)

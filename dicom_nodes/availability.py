"""Our Instance Availability Notification (PS3.4 Annex R): tells an AE that results lie there, ready to be retrieved.

It must never name an object that the AE has not taken.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pynetdicom.sop_class import InstanceAvailabilityNotification  # type: ignore[attr-defined]

from appliance.errors import Refused, Unreachable
from appliance.job import ObjectReference
from appliance.settings import Destination
from dicom_nodes.sender import DUPLICATE, associate, proposal, status_of

TAKEN = (0x0000, DUPLICATE, 0x0107, 0x0116)  # the last two: with a warning about attributes (PS3.7 Annex C.4)
MAY_PASS = (0x0110, 0x0213)  # processing failure, resource limitation (PS3.7 Annex C.5)


def notification(study_uid: str, objects: Sequence[ObjectReference], retrieve_ae_title: str) -> Dataset:
    """Return the attributes of a notification of these objects (PS3.4 Table R.3.2-1)."""
    ds = Dataset()
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.StudyInstanceUID = study_uid
    ds.ReferencedSeriesSequence = []
    for series in dict.fromkeys(one.series_instance_uid for one in objects):
        item = Dataset()
        item.SeriesInstanceUID = series
        item.ReferencedSOPSequence = [
            _available(one, retrieve_ae_title) for one in objects if one.series_instance_uid == series
        ]
        ds.ReferencedSeriesSequence.append(item)
    return ds


def _available(one: ObjectReference, retrieve_ae_title: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = one.sop_class_uid
    item.ReferencedSOPInstanceUID = one.sop_instance_uid
    item.InstanceAvailability = "ONLINE"
    item.RetrieveAETitle = retrieve_ae_title
    return item


def notify(destination: Destination, our_ae_title: str, uid: str, content: Dataset) -> str:
    """Send one N-CREATE; returns the answer in words. A duplicate was told before. Raises Refused or Unreachable."""
    contexts = [proposal(InstanceAvailabilityNotification)]
    with associate(destination, our_ae_title, contexts) as association:
        answer, _ = association.send_n_create(content, InstanceAvailabilityNotification, uid)
        status = status_of(answer)
    if status in TAKEN or status >> 12 == 0xB:
        return f"0x{status:04X}"
    said = f"{destination.name} answered the notification with status 0x{status:04X}"
    raise Unreachable(said) if status in MAY_PASS else Refused(said, status)

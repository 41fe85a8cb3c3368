"""Rejection notes of the source (IHE IOCM): Key Object Selections that say which instances are no longer good.

Read from the document's title and its evidence (PS3.3 C.17.6.2). A note of ours, about our own results, is none.
"""

from __future__ import annotations

from pydicom import Dataset

from dicom_nodes.codes import REJECTED_FOR_QUALITY, REJECTED_FOR_SAFETY, RETENTION_EXPIRED, WRONG_WORKLIST_ENTRY
from dicom_nodes.contexts import is_uid
from dicom_nodes.result_classes import KEY_OBJECT_SELECTION
from dicom_nodes.values import items, text

TITLES = {
    one.value: one
    for one in (REJECTED_FOR_QUALITY, REJECTED_FOR_SAFETY, WRONG_WORKLIST_ENTRY, RETENTION_EXPIRED)
}  # fmt: skip
SOP_CLASS, CONCEPT, CODE_VALUE, SCHEME = 0x00080016, 0x0040A043, 0x00080100, 0x00080102
EVIDENCE, SERIES, INSTANCES = 0x0040A375, 0x00081115, 0x00081199
STUDY_UID, INSTANCE_UID = 0x0020000D, 0x00081155


def rejected_by(ds: Dataset) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the code of a rejection note and (Study, SOP) Instance UIDs of what it rejects; nothing for others."""
    if text(ds, SOP_CLASS) != KEY_OBJECT_SELECTION:
        return "", ()
    title = next((text(one, CODE_VALUE) for one in items(ds, CONCEPT) if text(one, SCHEME) == "DCM"), "")
    if title not in TITLES:
        return "", ()
    found = [
        (text(study, STUDY_UID), text(one, INSTANCE_UID))
        for study in items(ds, EVIDENCE)
        for series in items(study, SERIES)
        for one in items(series, INSTANCES)
    ]
    return title, tuple(dict.fromkeys(pair for pair in found if all(is_uid(uid) for uid in pair)))

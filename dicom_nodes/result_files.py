"""Results of any curie, told from images by what they say of their making.

A PACS that forwards everything sends our results back to us, and to the curie of the next hospital. They are
kept and counted but never open an input set. This module must never look at UIDs alone: a known UID is the
catalogue's matter, this is for the results that we never saw.
"""

from __future__ import annotations

from pydicom import Dataset

from dicom_nodes.codes import PROCESSING_EQUIPMENT
from dicom_nodes.origin import MANUFACTURER
from dicom_nodes.values import items, text

MANUFACTURER_TAG, DEVICE_UID, CODE_VALUE = 0x00080070, 0x00181002, 0x00080100
CONTRIBUTING_EQUIPMENT, PURPOSE = 0x0018A001, 0x0040A170


def is_own_result(ds: Dataset) -> bool:
    """Tell whether a curie made this object: our Manufacturer, and our equipment or a device UID beside it."""
    if text(ds, MANUFACTURER_TAG) != MANUFACTURER:
        return False
    return bool(text(ds, DEVICE_UID)) or any(_is_ours(item) for item in items(ds, CONTRIBUTING_EQUIPMENT))


def _is_ours(equipment: Dataset) -> bool:
    purposes = {text(code, CODE_VALUE) for code in items(equipment, PURPOSE)}
    return text(equipment, MANUFACTURER_TAG) == MANUFACTURER and PROCESSING_EQUIPMENT.value in purposes

"""What the writers of results get of the images: clean headers in slice order.

Text is decoded to Unicode (results are written in ISO_IR 192), dates, times and numbers that are none are
emptied, UIDs stay letter for letter as received, leading zeros included. This module must never hand a writer
text in another character set, nor private elements, nor pixels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement

from appliance.study import FrameGeometry
from appliance.volume import SourceFrame
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.values import DECODED, by_tag, decoded, encodings, items, text, vr_of

TEXT = DECODED | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040)  # identifying and study-level
CHARACTER_SET = 0x00080005
UNICODE = "ISO_IR 192"
TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d|60)?(\.\d{1,6})?)?")
AGE = re.compile(r"\d{3}[DWMY]")
MOMENT = re.compile(r"\d{4}(\d{2}){0,5}(\.\d{1,6})?([+-]\d{4})?")
DEEPEST = 8


@dataclass(frozen=True)
class SourceHeaders:
    """The images a result is about."""

    header: Dataset  # of the first slice, cleaned; patient, study, series and equipment
    planes: tuple[FrameGeometry, ...]  # one per k of the Volume
    frames: tuple[SourceFrame, ...]  # one per k of the Volume

    @property
    def instances(self) -> tuple[tuple[str, str], ...]:
        """Return each image once, in slice order: (SOP Class UID, SOP Instance UID)."""
        return tuple(dict.fromkeys((frame.sop_class_uid, frame.sop_instance_uid) for frame in self.frames))


def cleaned(ds: Dataset) -> Dataset:
    """Return a copy of a received header that can be written as ISO_IR 192."""
    with lenient():
        found = _cleaned(ds, encodings(ds), 0)
        found.SpecificCharacterSet = UNICODE
    return found


def _cleaned(ds: Dataset, charsets: list[str], depth: int) -> Dataset:
    found = Dataset()
    for raw in sorted(ds.values(), key=by_tag):
        tag = int(raw.tag)
        if tag == CHARACTER_SET or not tag & 0xFFFF or not (depth or tag >> 16 in GROUPS):
            continue
        vr = vr_of(tag, raw.VR)
        if vr == "SQ" and keyword_for_tag(tag) and depth < DEEPEST:
            within = [_cleaned(item, charsets, depth + 1) for item in items(ds, tag)]
            found.add(DataElement(tag, "SQ", within))
        elif vr in TEXT and keyword_for_tag(tag):
            found.add(DataElement(tag, vr, _values(ds, raw, vr, charsets)))
    return found


def _values(ds: Dataset, raw: Any, vr: str, charsets: list[str]) -> str | list[str]:
    """Return the text value(s), each emptied when it is not of its VR."""
    if isinstance(raw, RawDataElement):
        whole = decoded(raw.value or b"", vr, charsets).rstrip(" \0")
    else:
        whole = text(ds, raw.tag)
    if vr in ("LT", "ST", "UT", "UR"):
        return whole
    values = [value if valid(value, vr) else "" for value in (part.strip(" \0") for part in whole.split("\\"))]
    return values[0] if len(values) == 1 else values


def valid(value: str, vr: str) -> bool:
    """Tell whether a value is of its VR (PS3.5 Table 6.2-1), for the VRs where a bad one breaks readers."""
    if vr == "DA":
        return _is_date(value)
    if vr in ("DS", "IS"):
        return _is_number(value)
    form = {"TM": TIME, "AS": AGE, "DT": MOMENT}.get(vr)
    return form is None or form.fullmatch(value) is not None


def _is_date(value: str) -> bool:
    if len(value) != 8 or not value.isascii() or not value.isdigit():
        return False
    try:
        date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        return False
    return True


def _is_number(value: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value) is not None

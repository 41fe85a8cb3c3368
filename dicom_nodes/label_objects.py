"""What somebody else's SEG, RTSTRUCT or SR says of itself: which structures, of which images, by whom and when.

Read from the header alone and believed in nothing: what is odd is left out. Names in it were typed by people and may
name a patient: they are compared, and never told on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import Dataset

from dicom_nodes.header import read_header
from dicom_nodes.instance_reader import patient_key
from dicom_nodes.result_classes import LABEL_MAP, RT_STRUCTURE_SET, SEGMENTATION
from dicom_nodes.result_files import is_own_result
from dicom_nodes.values import items, text, whole

REPORTS = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (11, 22, 33, 34, 35))
SEGMENTATIONS = frozenset({SEGMENTATION, LABEL_MAP})
CORRECTING = SEGMENTATIONS | REPORTS  # classes in which a radiologist's word on a result may come back
DEEPEST = 16  # items within items
LONGEST_AUTHOR = 128

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES, FRAME_OF_REFERENCE = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00200052
REFERENCED_SERIES, REFERENCED_INSTANCE, TRACKING_UID, UID_VALUE = 0x00081115, 0x00081155, 0x00620021, 0x0040A124
SEGMENTS, SEGMENT_NUMBER, SEGMENT_LABEL, SEGMENT_TYPE = 0x00620002, 0x00620004, 0x00620005, 0x0062000F
TYPE_MODIFIER, REGION, REGION_MODIFIER = 0x00620011, 0x00082218, 0x00082220
CODE_VALUE, CODING_SCHEME = 0x00080100, 0x00080102
ROIS, ROI_NUMBER, ROI_NAME, OBSERVATIONS = 0x30060020, 0x30060022, 0x30060026, 0x30060080
OBSERVED_ROI, ROI_CODE, REFERENCED_FRAMES = 0x30060084, 0x30060086, 0x30060010
# who: Content Creator's, Verifying Observer's, Person Observer's of the first who observes, ROI Interpreter, Operators'
AUTHORS = (0x00700084, 0x0040A075, 0x0040A123, 0x300600A6, 0x00081070)
AUTHOR_PLACES = (0x0040A073, 0x0040A730, OBSERVATIONS)  # sequences in which some of these stand
WHEN = ((0x00080023, 0x00080033), (0x30060008, 0x30060009), (0x00080021, 0x00080031))  # content, structure set, series

Coded = tuple[str, str]  # value and scheme


@dataclass(frozen=True)
class Structure:
    """One segment or region of interest."""

    number: int  # Segment or ROI Number
    name: str
    code: Coded | None
    laterality: str  # code value of Left or Right, or nothing
    tracking_uid: str


@dataclass(frozen=True)
class LabelObject:
    """One object."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    own: bool  # it says that a curie made it
    structures: tuple[Structure, ...]
    series: frozenset[str]  # Series Instance UIDs that it refers to
    references: frozenset[str]  # of a report: every UID that stands in it
    frame_of_reference: str
    patient_key: str
    author: str  # as written; never for a log
    at: datetime | None  # in the zone of this host where it says none


def read_label_object(path: Path) -> LabelObject:
    """Return what a file says of itself. Raises InstanceRefused for a file that cannot be read."""
    ds = read_header(path)
    sop_class = text(ds, SOP_CLASS)
    kind = _rois if sop_class == RT_STRUCTURE_SET else _segments
    return LabelObject(
        sop_class_uid=sop_class,
        sop_instance_uid=text(ds, SOP_INSTANCE),
        study_instance_uid=text(ds, STUDY),
        own=is_own_result(ds),
        structures=tuple(kind(ds)),
        series=frozenset(_series(ds)),
        references=frozenset(_uids(ds, 0)) if sop_class in REPORTS else frozenset(),
        frame_of_reference=text(ds, FRAME_OF_REFERENCE) or _frame_of_contours(ds),
        patient_key=patient_key(ds),
        author=_author(ds),
        at=_at(ds),
    )


def _segments(ds: Dataset) -> Iterator[Structure]:
    for item in items(ds, SEGMENTS):
        kind = next(iter(items(item, SEGMENT_TYPE)), Dataset())
        region = next(iter(items(item, REGION)), Dataset())
        side = (*items(kind, TYPE_MODIFIER), *items(region, REGION_MODIFIER))
        yield Structure(
            whole(item, SEGMENT_NUMBER, 0),
            text(item, SEGMENT_LABEL),
            _code(kind),
            text(side[0], CODE_VALUE) if side else "",
            text(item, TRACKING_UID),
        )


def _rois(ds: Dataset) -> Iterator[Structure]:
    codes = {whole(one, OBSERVED_ROI, 0): items(one, ROI_CODE) for one in items(ds, OBSERVATIONS)}
    for item in items(ds, ROIS):
        number = whole(item, ROI_NUMBER, 0)
        code = next(iter(codes.get(number, [])), Dataset())
        yield Structure(number, text(item, ROI_NAME), _code(code), "", "")


def _code(item: Dataset) -> Coded | None:
    value = text(item, CODE_VALUE)
    return (value, text(item, CODING_SCHEME)) if value else None


def _series(ds: Dataset) -> Iterator[str]:
    """Yield the series that a SEG (PS3.3 C.12.1.4) or a structure set (C.8.8.5) refers to."""
    for item in items(ds, REFERENCED_SERIES):
        yield text(item, SERIES)
    for frame in items(ds, REFERENCED_FRAMES):
        for study in items(frame, 0x30060012):  # RT Referenced Study Sequence
            for series in items(study, 0x30060014):
                yield text(series, SERIES)


def _frame_of_contours(ds: Dataset) -> str:
    frames = items(ds, REFERENCED_FRAMES) or items(ds, ROIS)
    return next((text(one, tag) for one in frames for tag in (FRAME_OF_REFERENCE, 0x30060024) if text(one, tag)), "")


def _uids(ds: Dataset, depth: int) -> Iterator[str]:
    """Yield the instances that a report refers to and the UIDs in its content, tracking UIDs among them."""
    for tag in (REFERENCED_INSTANCE, UID_VALUE):
        if found := text(ds, tag):
            yield found
    if depth == DEEPEST:
        return
    for element in list(ds.values()):
        if element.VR == "SQ":
            for item in items(ds, element.tag):
                yield from _uids(item, depth + 1)


def _author(ds: Dataset) -> str:
    places = [ds, *(item for tag in AUTHOR_PLACES for item in items(ds, tag))]
    found = (text(place, tag) for tag in AUTHORS for place in places)
    return next((one for one in found if one), "")[:LONGEST_AUTHOR]


def _at(ds: Dataset) -> datetime | None:
    for day, time in WHEN:
        written = f"{text(ds, day)}{text(ds, time)[:6].ljust(6, '0')}{text(ds, 0x00080201)}"
        for form in ("%Y%m%d%H%M%S%z", "%Y%m%d%H%M%S"):
            try:
                return datetime.strptime(written, form).astimezone()
            except ValueError:
                continue
    return None

"""Headers of instances: read without their pixels, and what geometry and routing need of them.

Headers come from outside and are odd: nothing here raises for an odd value, it says `.problem` or leaves the
value out. A header is never changed by looking at it (digests are taken of the bytes received), and no value
of it may reach a log, a warning or an error text.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError

from appliance.errors import InstanceRefused
from appliance.study import FrameGeometry
from dicom_nodes.values import NUMBERS, by_tag, encodings, items, numbers, raw_texts, text, vr_of, whole

PIXELS = 0x7FE00000  # group of Pixel Data and its offset tables; every element before it is header
UNDEFINED = 0xFFFFFFFF  # length
DEFLATED = b"1.2.840.10008.1.2.1.99"
LONGEST_ATTRIBUTE = 64  # characters of one value: as many as LO and UI have (PS3.5 Table 6.2-1)
MOST_VALUES = 32  # of one attribute
SHORT_TEXT = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI", "UC"}
READ_ERRORS = (
    ValueError, TypeError, KeyError, IndexError, EOFError, OSError, AttributeError, NotImplementedError,
    struct.error, InvalidDicomError,
)  # fmt: skip  # all that pydicom was seen to raise for broken files

PER_FRAME, SHARED = 0x52009230, 0x52009229
POSITION_GROUP, POSITION = 0x00209113, 0x00200032
ORIENTATION_GROUP, ORIENTATION = 0x00209116, 0x00200037
MEASURES_GROUP, PIXEL_SPACING = 0x00289110, 0x00280030
CONTENT_GROUP, TEMPORAL_INDEX = 0x00209111, 0x00209128
TRIGGER_TIME, TEMPORAL_IDENTIFIER = 0x00181060, 0x00200100
CARDIAC_GROUP, TRIGGER_DELAY = 0x00189118, 0x00209153  # Nominal Cardiac Trigger Delay Time, ms after the R-wave
ROWS, COLUMNS, FRAMES, SOP_INSTANCE_UID = 0x00280010, 0x00280011, 0x00280008, 0x00080018


def read_header(source: Path | bytes) -> Dataset:
    """Return all elements before the pixel data, as received.

    Raises InstanceRefused when the source is no DICOM file (PS3.10), is cut inside the header or is deflated.
    """
    if isinstance(source, bytes):
        return read_open(BytesIO(source))
    with source.open("rb") as file:
        return read_open(file)


def read_open(file: BinaryIO, *, pixels: bool = False) -> Dataset:
    """Return the dataset of an open file; without pixels, the file then stands at the pixel data element."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's texts quote values
        try:
            _refuse_deflated(file)
            ds = dcmread(file, stop_before_pixels=not pixels)
        except READ_ERRORS as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the disk or the process is in trouble, not the file
            raise _unreadable("this is not a readable DICOM file") from error
    _refuse_cut(ds)
    return ds


def _refuse_deflated(file: BinaryIO) -> None:
    """Raise for a deflated file before anything is inflated: 1 MB may become 1 GB."""
    start = file.read(2048)
    file.seek(0)
    if start[128:132] == b"DICM" and DEFLATED in start:
        raise _unreadable("Deflated Explicit VR Little Endian is not accepted")


def _refuse_cut(ds: Dataset) -> None:
    if SOP_INSTANCE_UID not in ds:
        raise _unreadable("the file has no SOP Instance UID")
    last = list(ds.values())[-1]  # as received and in the file's order, unlike elements()
    if not isinstance(last, RawDataElement) or not isinstance(last.value, bytes) or last.tag >= PIXELS:
        return
    if len(last.value) < last.length != UNDEFINED:
        raise _unreadable(f"the file is cut inside element {last.tag}")


def _unreadable(sentence: str) -> InstanceRefused:
    return InstanceRefused(sentence, InstanceRefused.UNREADABLE)


@dataclass(frozen=True)
class FrameGroups:
    """The datasets that say where one frame lies; for a single-frame image, all are the image itself."""

    position: Dataset
    orientation: Dataset
    measures: Dataset
    moment: str  # when it was taken: a number without unit
    trigger_ms: float | None  # after the R-wave


def geometry(ds: Dataset) -> tuple[FrameGeometry, ...]:
    """Return where each plane lies: one for a single-frame image, one a frame for an enhanced one."""
    frames = whole(ds, FRAMES, 1)
    per_frame = frame_items(ds)
    if not per_frame:
        moment = text(ds, TRIGGER_TIME) or text(ds, TEMPORAL_IDENTIFIER)
        plane = _plane(ds, FrameGroups(ds, ds, ds, moment, _number(ds, TRIGGER_TIME)), None, frames)
        return (_with_problem(plane, "a multi-frame image that does not place its frames"),) if frames > 1 else (plane,)
    shared = next(iter(items(ds, SHARED)), Dataset())
    found = tuple(_plane(ds, _groups(item, shared), n, frames) for n, item in enumerate(per_frame, 1))
    if len(found) != frames:
        return tuple(_with_problem(plane, f"{len(found)} frames are described, {frames} announced") for plane in found)
    return found


def frame_items(ds: Dataset) -> list[Dataset]:
    """Return the items of the Per-Frame Functional Groups Sequence; none where it is an empty shell.

    Some software leaves one without content in a classic image that places itself by its top level.
    """
    found = items(ds, PER_FRAME)
    return [] if POSITION in ds and not any(len(item) for item in found) else found


def _groups(item: Dataset, shared: Dataset) -> FrameGroups:
    """Return one frame's functional groups, else the shared ones (PS3.3 C.7.6.16)."""

    def group(tag: int) -> Dataset:
        return next(iter(items(item, tag) or items(shared, tag)), Dataset())

    cardiac = group(CARDIAC_GROUP)
    moment = text(group(CONTENT_GROUP), TEMPORAL_INDEX) or text(cardiac, TRIGGER_DELAY)
    places = group(POSITION_GROUP), group(ORIENTATION_GROUP), group(MEASURES_GROUP)
    return FrameGroups(*places, moment, _number(cardiac, TRIGGER_DELAY))


def _plane(ds: Dataset, groups: FrameGroups, frame: int | None, frames: int) -> FrameGeometry:
    position, position_problem = _vector(groups.position, POSITION, 3, "Image Position (Patient)")
    orientation, orientation_problem = _vector(groups.orientation, ORIENTATION, 6, "Image Orientation (Patient)")
    spacing, spacing_problem = _vector(groups.measures, PIXEL_SPACING, 2, "Pixel Spacing")
    return FrameGeometry(
        sop_instance_uid=text(ds, SOP_INSTANCE_UID),
        rows=whole(ds, ROWS, 0),
        columns=whole(ds, COLUMNS, 0),
        position=(position[0], position[1], position[2]) if position else None,
        orientation=orientation,
        pixel_spacing=(spacing[0], spacing[1]) if spacing else None,
        frames=frames,
        frame=frame,
        temporal_position=groups.moment,
        trigger_ms=groups.trigger_ms,
        problem=position_problem or orientation_problem or spacing_problem,
    )


def _with_problem(plane: FrameGeometry, problem: str) -> FrameGeometry:
    return replace(plane, problem=problem)


def _vector(ds: Dataset, tag: int, size: int, name: str) -> tuple[tuple[float, ...] | None, str]:
    """Return the numbers and no problem, or None with a problem unless the element is simply absent."""
    found = numbers(ds, tag)
    if found is not None and len(found) == size:
        return found, ""
    if found == ():
        return None, ""
    return None, f"{name} is not {size} numbers"


def _number(ds: Dataset, tag: int) -> float | None:
    """Return the value where it is one finite number, else None."""
    found = numbers(ds, tag)
    return found[0] if found is not None and len(found) == 1 and math.isfinite(found[0]) else None


def whole_between(ds: Dataset, tag: int, least: int, most: int) -> int | None:
    """Return the value as one integer of this range, or None where it is absent, several, or anything else."""
    found = numbers(ds, tag)
    if found is None or len(found) != 1 or not least <= found[0] <= most or found[0] != int(found[0]):
        return None
    return int(found[0])


def attributes(ds: Dataset) -> dict[str, str | list[str]]:
    """Return keyword → text of the short elements that routing may ask for.

    Top-level public elements of text and number VRs, and those of the shared functional groups of an enhanced
    image where the top level has none. Values are cut at 64 characters, lists at 32 values. Holds patient
    identity: for the catalogue, never for a log.
    """
    found: dict[str, str | list[str]] = {}
    for part in (ds, *_shared_groups(ds)):
        charsets = encodings(ds)
        for raw in sorted(part.values(), key=by_tag):
            keyword = _keyword(raw.tag, raw.VR)
            if keyword and keyword not in found:
                found[keyword] = _short(part, raw, charsets)
    return found


def _shared_groups(ds: Dataset) -> Iterator[Dataset]:
    for item in items(ds, SHARED):
        for element in list(item.values()):
            yield from items(item, element.tag)


def _keyword(tag: int, given: str | None) -> str:
    """Return the keyword of a public element with a short text or number value, else nothing."""
    if tag >> 16 & 1 or tag >= PIXELS or not tag & 0xFFFF:
        return ""
    vr = vr_of(tag, given)
    return keyword_for_tag(tag) if vr in SHORT_TEXT or vr in NUMBERS else ""


def _short(ds: Dataset, raw: Any, charsets: list[str]) -> str | list[str]:
    received = isinstance(raw, RawDataElement)
    values = raw_texts(raw, charsets) if received else text(ds, raw.tag).split("\\")
    values = [value[:LONGEST_ATTRIBUTE] for value in values[:MOST_VALUES]]
    return values[0] if len(values) == 1 else values

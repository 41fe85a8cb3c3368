"""The last look at results before anything may send them: read back, compared with what they were to say.

What fails here is ResultRejected and parked with its reason. It must never repair: a result that is wrong has a
writer that is wrong. `dciodvfy` looks, too, where it is installed (Debian's dicom3tools).
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import sr
from pydicom import Dataset, dcmread

from appliance.errors import ResultRejected
from appliance.finding import Finding
from appliance.job import ObjectReference, ResultContext
from appliance.volume import Volume
from dicom_nodes.frame_places import FramePlace, frame_places
from dicom_nodes.label_maps import LabelMap
from dicom_nodes.origin import Encoded
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_classes import COMPREHENSIVE_3D_SR, LABEL_MAP, PARAMETRIC_MAP, SEGMENTATION
from dicom_nodes.source import UNICODE, SourceHeaders

PER_FRAME, PIXELS, DOCUMENT = 0x52009230, 0x7FE00010, 0x00420011
PIXELS_HEAD = 12  # bytes before the value of an element with a long length (PS3.5 Table 7.1-1)
TOLERANCE = 0.01  # of a voxel
RELATIVE = 1e-6  # of a number that went through a decimal string
TOOL_S = 120
NOT_KNOWN_AS_SEGMENTATION = "Shall not be present for Referenced SOP Class that is not segmentation"
TEXTS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}
REPLACEMENT = "\ufffd"  # what decoding writes for bytes that are none of the character set
ALLOWED = {"\t", "\n", "\f", "\r"}

FILLED = (  # type 1: there, with a value (PS3.3 C.7.2.1, C.7.3.1, C.7.5.1, C.12.1)
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Manufacturer",
    "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "SeriesDescription",
)  # fmt: skip
THERE = (  # type 2 (PS3.3 C.7.1.1, C.7.2.1, C.7.3.1)
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyID", "ReferringPhysicianName", "SeriesNumber", "InstanceNumber",
)  # fmt: skip
FILLED_BY_CLASS = {
    SEGMENTATION: ("FrameOfReferenceUID", "SegmentationType", "SegmentSequence", "NumberOfFrames", "ContentLabel"),
    LABEL_MAP: ("FrameOfReferenceUID", "SegmentationType", "SegmentSequence", "NumberOfFrames", "ContentLabel"),
    PARAMETRIC_MAP: ("FrameOfReferenceUID", "NumberOfFrames", "ContentLabel", "PixelPresentation"),
    COMPREHENSIVE_3D_SR: ("CompletionFlag", "VerificationFlag", "ContentSequence", "ConceptNameCodeSequence"),
}


@dataclass(frozen=True)
class Held:
    """What one segmentation or map is to hold: which number each label becomes, on the grid of which images."""

    label_map: LabelMap
    volume: Volume
    numbers: Mapping[int, int]  # label → Segment Number, or what a map stores for it
    source: SourceHeaders


@dataclass(frozen=True)
class Expected:
    """What the whole set is to say."""

    findings: Sequence[Finding]
    source: SourceHeaders
    context: ResultContext
    images: frozenset[str]  # SOP Instance UIDs of all that was read
    held: Mapping[str, Held]  # SOP Instance UID → what it holds


def check(objects: Sequence[tuple[ObjectReference, Encoded]], expected: Expected) -> None:
    """Raise ResultRejected unless every object of a result set is whole, refers to what exists and says what it is to.

    Objects are complete Part 10 files.
    """
    known = expected.images | {one.sop_instance_uid for one, _ in objects} | _elsewhere(expected.context)
    with lenient():
        known |= _references(expected.source.header)  # what the source says of its study is passed on
    for at, content in objects:
        with lenient():
            ds, pixels = _opened(content)
            for problem in _problems(ds, pixels, at, known, expected):
                raise ResultRejected(f"{at.sop_class_uid}: {problem}; it is not sent")
    _ask_dciodvfy(objects, expected)


def _elsewhere(context: ResultContext) -> set[str]:
    before = {one.sop_instance_uid for one in context.supersedes}
    return before | {one.report.sop_instance_uid for one in context.priors}


def _opened(content: Encoded) -> tuple[Dataset, memoryview]:
    """Return all but the pixels of a file, and these as they lie there: large ones are not brought into memory."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    file.seek(0)
    ds = dcmread(file, stop_before_pixels=True)  # type: ignore[arg-type]
    return ds, memoryview(content)[file.tell() + PIXELS_HEAD :]


def _problems(
    ds: Dataset, pixels: memoryview, at: ObjectReference, known: frozenset[str] | set[str], expected: Expected
) -> Iterator[str]:
    """Yield what is wrong with one object."""
    yield from _of_identity(ds, at, expected.source)
    yield from (f"{keyword} is empty" for keyword in _filled(ds) if not _has_value(ds, keyword))
    yield from (f"{keyword} is not there" for keyword in THERE if keyword not in ds)
    yield from _of_text(ds, expected.source)
    yield from (f"it refers to {uid}, which is not there" for uid in sorted(_references(ds) - known))
    if at.sop_instance_uid in expected.held:
        yield from _of_voxels(ds, pixels, expected.held[at.sop_instance_uid])
    if at.sop_class_uid == COMPREHENSIVE_3D_SR:
        yield from _of_numbers(ds, expected.findings)


def _of_identity(ds: Dataset, at: ObjectReference, source: SourceHeaders) -> Iterator[str]:
    pairs = (
        (ds.file_meta.MediaStorageSOPInstanceUID, at.sop_instance_uid, "the file's UID"),
        (ds.SOPInstanceUID, at.sop_instance_uid, "the SOP Instance UID"),
        (ds.SOPClassUID, at.sop_class_uid, "the SOP Class UID"),
        (ds.SeriesInstanceUID, at.series_instance_uid, "the Series Instance UID"),
        (ds.StudyInstanceUID, source.header.get("StudyInstanceUID"), "the Study Instance UID"),
        (ds.get("PatientID", ""), source.header.get("PatientID", ""), "the Patient ID"),
        (ds.get("PatientName", ""), source.header.get("PatientName", ""), "the Patient's Name"),
    )
    yield from (f"{name} is another" for found, wanted, name in pairs if str(found or "") != str(wanted or ""))


def _filled(ds: Dataset) -> tuple[str, ...]:
    return FILLED + FILLED_BY_CLASS.get(str(ds.SOPClassUID), ())


def _has_value(ds: Dataset, keyword: str) -> bool:
    return keyword in ds and ds[keyword].value not in (None, "", []) and bool(str(ds[keyword].value).strip())


def _of_text(ds: Dataset, source: SourceHeaders) -> Iterator[str]:
    """Yield text that is not of the character set; what the source itself has passes as it came."""
    if ds.get("SpecificCharacterSet") != UNICODE:
        yield f"the character set is {ds.get('SpecificCharacterSet')!r}"
    received = {value for _, value in _texts(source.header)}
    for keyword, value in _texts(ds):
        if value not in received and any(one == REPLACEMENT or _is_control(one) for one in value):
            yield f"{keyword} holds characters that are none"
            return


def _is_control(one: str) -> bool:
    return unicodedata.category(one) in ("Cc", "Cs") and one not in ALLOWED


def _texts(ds: Dataset) -> Iterator[tuple[str, str]]:
    """Yield every text of a dataset but those of single frames, which are numbers and UIDs alone."""
    for tag in ds.keys():  # noqa: SIM118 - iterating the dataset would convert every element
        if tag in (PER_FRAME, PIXELS, DOCUMENT):
            continue
        element = ds[tag]
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in TEXTS:
            yield element.keyword, str(element.value)


def _references(ds: Dataset) -> set[str]:
    """Return the SOP Instance UIDs to which an object refers anywhere, single frames included."""
    found: set[str] = set()
    for tag in ds.keys():  # noqa: SIM118 - as above
        if tag == PER_FRAME:
            found |= {place.source_uid for place in frame_places(ds.get_item(tag).value)}
        elif tag not in (PIXELS, DOCUMENT):
            element = ds[tag]
            if element.VR == "SQ":
                for item in element.value:
                    found |= _references(item)
            elif element.keyword == "ReferencedSOPInstanceUID":
                found.add(str(element.value))
    study = getattr(ds, "StudyInstanceUID", None)
    return found - {str(study)}  # an RT Structure Set refers to its study in this way


def _of_voxels(ds: Dataset, pixels: memoryview, held: Held) -> Iterator[str]:
    """Yield where the frames, placed by their positions in the patient, are not the label map."""
    places = frame_places(ds.get_item(PER_FRAME).value)
    if len(places) != int(ds.NumberOfFrames):
        yield f"{len(places)} frames have a place, {ds.NumberOfFrames} are declared"
        return
    numbers = np.zeros(256, np.uint8)
    for label, number in held.numbers.items():
        numbers[label] = number
    wanted = numbers[held.label_map]
    to_index = np.linalg.inv(held.volume.affine)
    left = {int(k) for k in np.flatnonzero(wanted.any(axis=(1, 2)))}
    shape = int(ds.Rows), int(ds.Columns)
    if shape != wanted.shape[1:]:
        yield "its frames have another size than the images"
        return
    plane_of = _planes(pixels, int(ds.BitsAllocated), shape)
    for k, mine in _by_slice(places, to_index):
        if k is None or not 0 <= k < len(wanted):
            yield "a frame lies off the grid of the images"
            return
        if not np.array_equal(_slice_of([places[n] for n in mine], [plane_of(n) for n in mine]), wanted[k]):
            yield f"the voxels of slice {k + 1} are not those of the label map"
            return
        if any(places[n].source_uid != held.source.frames[k].sop_instance_uid for n in mine):
            yield f"a frame of slice {k + 1} names another image as its source"
            return
        left.discard(k)
    if left:
        yield f"{len(left)} slices of the label map have no frame"


def _slice_of(places: Sequence[FramePlace], planes: Sequence[Any]) -> Any:
    """Return the Segment Numbers, or numbers, of one slice from its frames."""
    found = np.zeros(planes[0].shape, np.uint16)
    for place, plane in zip(places, planes, strict=True):
        if plane.dtype == bool:
            found[plane] = place.segment
        else:
            found[plane > 0] = plane[plane > 0]
    return found


def _by_slice(places: Sequence[FramePlace], to_index: Any) -> list[tuple[int | None, list[int]]]:
    """Return the numbers of frames by the slice on which they lie; None for those that lie between."""
    positions = np.array([place.position for place in places])
    index = np.c_[positions, np.ones(len(positions))] @ to_index.T
    near = np.rint(index[:, 0])
    off = (np.abs(index[:, 0] - near) > TOLERANCE) | (np.abs(index[:, 1:3]).max(axis=1) > TOLERANCE)
    grouped: dict[int | None, list[int]] = {}
    for n, k in enumerate(near):
        grouped.setdefault(None if off[n] else int(k), []).append(n)
    return list(grouped.items())


def _planes(pixels: memoryview, bits_allocated: int, shape: tuple[int, int]) -> Any:
    """Return a function from frame number to its plane: bool of one segment, numbers of a map."""
    size = shape[0] * shape[1]
    stored = np.frombuffer(pixels, "<u2" if bits_allocated == 16 else np.uint8)
    if bits_allocated > 1:
        return lambda n: stored[n * size : (n + 1) * size].reshape(shape)

    def unpacked(n: int) -> Any:
        first, last = n * size, (n + 1) * size
        bits = np.unpackbits(stored[first // 8 : -(-last // 8)], bitorder="little")
        return bits[first % 8 : first % 8 + size].reshape(shape).astype(bool)

    return unpacked


def _of_numbers(ds: Dataset, findings: Sequence[Finding]) -> Iterator[str]:
    """Yield measurements that do not come back as they were found."""
    content = sr.MeasurementReport.from_sequence([ds]) if "ContentSequence" in ds else None
    if content is None:
        yield "it has no content"
        return
    groups = [
        *content.get_volumetric_roi_measurement_groups(),
        *content.get_planar_roi_measurement_groups(),
        *content.get_image_measurement_groups(),
    ]
    read: dict[str, list[tuple[str, str, float]]] = {}
    for group in groups:
        told = [(one.name.value, one.unit.value, float(one.value)) for one in group.get_measurements()]
        read.setdefault(str(group.tracking_uid), []).extend(told)
    for one in findings:
        if one.segment_number and not one.voxels:
            continue
        if one.tracking_uid not in read:
            yield f"{one.name} has no group of measurements"
        for measured in one.measurements:
            values = [v for name, unit, v in read.get(one.tracking_uid, []) if (name, unit) == _named(measured)]
            if not any(abs(v - measured.value) <= RELATIVE * max(1.0, abs(measured.value)) for v in values):
                yield f"{measured.name.meaning} of {one.name} does not read back"


def _named(measured: Any) -> tuple[str, str]:
    return measured.name.value, measured.unit.value


def _ask_dciodvfy(objects: Sequence[tuple[ObjectReference, Encoded]], expected: Expected) -> None:
    """Raise ResultRejected for what dciodvfy calls an error, unless the source's own value is what it complains of."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        return
    values = {str(element.value) for element in expected.source.header.iterall() if element.VR != "SQ"}
    values |= expected.images
    of_label_map = any(at.sop_class_uid == LABEL_MAP for at, _ in objects)
    with tempfile.TemporaryDirectory(prefix="curie-") as folder:
        path = Path(folder) / "result.dcm"
        for at, content in objects:
            if at.sop_class_uid == LABEL_MAP:
                continue  # the tool is older than that class
            path.write_bytes(content)
            for line in _errors(tool, path):
                if of_label_map and NOT_KNOWN_AS_SEGMENTATION in line:
                    continue
                if not any(f"<{value}>" in line for value in values if value):
                    raise ResultRejected(f"{at.sop_class_uid}: dciodvfy says {line.removeprefix('Error - ')}")


def _errors(tool: str, path: Path) -> list[str]:
    try:
        ran = subprocess.run(
            [tool, "-new", str(path)], capture_output=True, text=True, errors="replace", timeout=TOOL_S, check=False
        )
    except subprocess.TimeoutExpired:
        return []  # a tool that hangs is no judgement
    return [line for line in (ran.stdout + ran.stderr).splitlines() if line.startswith("Error")]

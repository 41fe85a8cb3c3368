"""What is wrong with a result is seen before it leaves: each test damages one thing of a set that is whole."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite

from appliance.errors import ResultRejected
from appliance.finding import Measurement
from appliance.job import ObjectReference
from dicom_nodes import origin
from dicom_nodes.frame_places import frame_places
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.report import write_report
from dicom_nodes.result_classes import COMPREHENSIVE_3D_SR, LABEL_MAP, SEGMENTATION
from dicom_nodes.segmentation import segment_references, write_label_map, write_segmentation
from dicom_nodes.validation import Expected, Held, check
from tests import phantoms
from tests.made_up import context, findings, read_phantom

Objects = list[tuple[ObjectReference, bytes]]


@dataclass
class Made:
    """A result set, and what it is to say."""

    objects: Objects
    expected: Expected


@pytest.fixture(params=["plain", "cyrillic", "leading zeros"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    images = {
        "plain": phantoms.series(),
        "cyrillic": [phantoms.with_character_set(ds, "cyrillic") for ds in phantoms.series()],
        "leading zeros": phantoms.series(change=phantoms.leading_zero_uids),
    }[request.param]
    return whole(tmp_path, images)


def whole(folder: Path, images: list[Dataset]) -> Made:
    labels, volume, source = read_phantom(folder, images=images)
    made, found = context(), findings(context())
    held = Held(labels, volume, {1: 1, 2: 2, 3: 3}, source)
    objects = [
        (
            origin.reference(made, origin.SEGMENTATION_SERIES, SEGMENTATION),
            write_segmentation(labels, volume, found, source, made),
        ),
        (
            origin.reference(made, origin.REPORT_SERIES, COMPREHENSIVE_3D_SR),
            write_report(found, labels, volume, source, made, segment_references(found, made)),
        ),
        (
            origin.reference(made, origin.LABEL_MAP_SERIES, LABEL_MAP),
            write_label_map(labels, volume, found, source, made),
        ),
    ]
    uids = frozenset(uid for _, uid in source.instances)
    return Made(objects, Expected(found, source, made, uids, {made.uid("seg"): held, made.uid("labelmap"): held}))


def test_a_set_that_is_whole_passes(made: Made) -> None:
    check(made.objects, made.expected)


def changed(content: bytes, change: Callable[[Dataset], None]) -> bytes:
    """Return the file with a change of its dataset."""
    with lenient():
        ds = dcmread(io.BytesIO(content))
        change(ds)
        held = io.BytesIO()
        dcmwrite(held, ds)
    return held.getvalue()


def flip(ds: Dataset) -> None:
    pixels = bytearray(ds.PixelData)
    pixels[len(pixels) // 2] ^= 0x10
    ds.PixelData = bytes(pixels)


def shift(ds: Dataset) -> None:
    item = ds.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence[0]
    x, y, z = item.ImagePositionPatient
    item.ImagePositionPatient = [x, y + 0.8, z]


def swap_source(ds: Dataset) -> None:
    one, two = (
        ds.PerFrameFunctionalGroupsSequence[n].DerivationImageSequence[0].SourceImageSequence[0] for n in (0, 3)
    )
    one.ReferencedSOPInstanceUID = two.ReferencedSOPInstanceUID


def point_elsewhere(ds: Dataset) -> None:
    ds.SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.666"


DAMAGES: dict[str, tuple[int, Callable[[Dataset], None], str]] = {
    "a voxel": (0, flip, "voxels of slice"),
    "a voxel of the label map": (2, flip, "voxels of slice"),
    "a frame beside its place": (0, shift, "off the grid"),
    "a frame of another image": (0, swap_source, "another image as its source"),
    "a reference to nothing": (0, point_elsewhere, "refers to 2.25.666"),
    "no modality": (0, lambda ds: setattr(ds, "Modality", ""), "Modality is empty"),
    "no patient's sex": (1, lambda ds: delattr(ds, "PatientSex"), "PatientSex is not there"),
    "another patient": (1, lambda ds: setattr(ds, "PatientID", "somebody"), "Patient ID is another"),
    "another study": (1, lambda ds: setattr(ds, "StudyInstanceUID", "2.25.5"), "Study Instance UID is another"),
    "another character set": (1, lambda ds: setattr(ds, "SpecificCharacterSet", "ISO_IR 100"), "character set"),
    "a control character": (1, lambda ds: setattr(ds, "SeriesDescription", "AI\x07"), "characters that are none"),
    "no content": (1, lambda ds: delattr(ds, "ContentSequence"), "ContentSequence is empty"),
}


@pytest.mark.parametrize("name", list(DAMAGES))
def test_a_damage_is_seen_and_named(tmp_path: Path, name: str) -> None:
    made = whole(tmp_path, phantoms.series())
    place, change, said = DAMAGES[name]
    at, content = made.objects[place]
    made.objects[place] = (at, changed(content, change))
    with pytest.raises(ResultRejected, match=said):
        check(made.objects, made.expected)


def test_a_number_that_is_not_what_was_measured_is_seen(tmp_path: Path) -> None:
    made = whole(tmp_path, phantoms.series())
    one, *others = made.expected.findings
    measured = one.measurements[0]
    other = replace(one, measurements=(Measurement(measured.name, measured.value + 0.01, measured.unit),))
    with pytest.raises(ResultRejected, match="Volume of Brain does not read back"):
        check(made.objects, replace(made.expected, findings=[other, *others]))


def test_a_missing_object_and_another_label_map_are_seen(tmp_path: Path) -> None:
    made = whole(tmp_path, phantoms.series())
    with pytest.raises(ResultRejected, match="refers to"):
        check(made.objects[1:], made.expected)
    uid = made.objects[0][0].sop_instance_uid
    held = made.expected.held[uid]
    more = held.label_map.copy()
    more[0, 0, 0] = 1
    with pytest.raises(ResultRejected, match=r"no frame|voxels"):
        check(made.objects, replace(made.expected, held={uid: replace(held, label_map=more)}))


@pytest.mark.parametrize("value", [b"\xfe\xff\x00\xe0\x10\x00\x00\x00", b"\x08", struct.pack("<HHI", 8, 8, 0)])
def test_frames_that_are_none_are_refused(value: bytes) -> None:
    with pytest.raises(ResultRejected, match="read back"):
        frame_places(value)


def test_an_object_of_many_segments_is_looked_through_in_little_time(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    made, found = context(), findings(context())
    content = write_segmentation(labels, volume, found, source, made)
    with lenient():
        ds = dcmread(io.BytesIO(content))
    places = frame_places(ds.get_item(0x52009230).value)
    assert [place.segment for place in places] == sorted(place.segment for place in places)
    assert len(places) == int(ds.NumberOfFrames)
    assert np.allclose(places[0].position, source.planes[np.flatnonzero((labels == 1).any(axis=(1, 2)))[0]].position)

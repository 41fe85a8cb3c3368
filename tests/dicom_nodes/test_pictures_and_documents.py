"""The objects beside SEG and SR: overlays, key images, presentation states, pages, contours; each as others read it."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from appliance.errors import ResultRejected
from appliance.finding import Finding
from appliance.job import ObjectReference, ResultContext
from appliance.volume import Volume
from dicom_nodes import origin
from dicom_nodes.contour_set import write_contours
from dicom_nodes.contours import area
from dicom_nodes.key_objects import write_key_images, write_retraction
from dicom_nodes.key_slices import LEGEND, drawn, key_slices
from dicom_nodes.label_maps import LabelMap
from dicom_nodes.label_maps import segments as find_segments
from dicom_nodes.page import printed, write_page
from dicom_nodes.parametric_map import write_probability_map
from dicom_nodes.presentation import write_presentation
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_files import is_own_result
from dicom_nodes.secondary_capture import write_picture
from dicom_nodes.segmentation import write_label_map
from dicom_nodes.source import SourceHeaders
from tests import phantoms
from tests.made_up import context, findings, read_phantom
from tests.phantoms import Phantom

OLD = ObjectReference("1.2.840.10008.5.1.4.1.1.88.34", "2.25.7", "2.25.8", "2.25.9")
Writer = Callable[[LabelMap, Volume, list[Finding], SourceHeaders, ResultContext], bytes]


def overlay(
    labels: LabelMap, volume: Volume, found: list[Finding], source: SourceHeaders, made: ResultContext
) -> bytes:
    segments = find_segments(labels, volume, found)
    picture = drawn(key_slices(segments)[0], labels, volume, segments, made)
    return write_picture(picture, source, made, origin.OVERLAY_SERIES, 3)


def key_images(_: LabelMap, volume: Volume, found: list[Finding], source: SourceHeaders, made: ResultContext) -> bytes:
    chosen = [ObjectReference(*one, volume.series_instance_uid) for one in source.instances[2:4]]
    return write_key_images([*chosen, OLD], source, made, ", ".join(one.name for one in found))


def retraction(_: LabelMap, __: Volume, ___: list[Finding], source: SourceHeaders, made: ResultContext) -> bytes:
    return write_retraction([OLD], source, made)


def page(labels: LabelMap, volume: Volume, found: list[Finding], source: SourceHeaders, made: ResultContext) -> bytes:
    segments = find_segments(labels, volume, found)
    picture = drawn(key_slices(segments)[0], labels, volume, segments, made)
    return write_page(found, picture, source, made)


def probability_map(
    labels: LabelMap, volume: Volume, found: list[Finding], source: SourceHeaders, made: ResultContext
) -> bytes:
    return write_probability_map(labels * np.uint8(30), found[0].name, volume, source, made)


WRITERS: dict[str, Writer] = {
    "overlay": overlay,
    "probability map": probability_map,
    "key images": key_images,
    "retraction": retraction,
    "presentation": write_presentation,
    "page": page,
    "contours": write_contours,
    "label map": write_label_map,
}


def parsed(file: bytes) -> Dataset:
    with lenient():
        return dcmread(io.BytesIO(file))


def faults(path: Path) -> list[str]:
    """Return dciodvfy's errors; none where the tool is not installed."""
    if shutil.which("dciodvfy") is None:
        return []
    ran = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace")
    return [line for line in (ran.stdout + ran.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("name", list(WRITERS))
@pytest.mark.parametrize("kind", ["axial", "enhanced", "japanese"])
def test_each_object_is_valid_ours_and_the_same_bytes_twice(tmp_path: Path, name: str, kind: str) -> None:
    images = {
        "axial": phantoms.series(),
        "enhanced": [phantoms.enhanced()],
        "japanese": [phantoms.with_character_set(ds, "japanese") for ds in phantoms.series()],
    }[kind]
    labels, volume, source = read_phantom(tmp_path, images=images)
    made = context()
    one, two = (WRITERS[name](labels, volume, findings(made), source, made) for _ in range(2))
    assert one == two
    other = context(package_version="1.0.1")
    assert one != WRITERS[name](labels, volume, findings(other), source, other)
    ds = parsed(one)
    assert is_own_result(ds)
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert "not for clinical use" in ds.SeriesDescription
    assert ds.StudyInstanceUID == source.header.StudyInstanceUID
    (tmp_path / "result.dcm").write_bytes(one)
    expected = ["Error - Information Object Not found"] if name == "label map" else []  # the tool is older than it
    assert faults(tmp_path / "result.dcm") in ([], expected)


def test_contours_have_the_area_of_the_mask_in_every_slice(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path, Phantom(orientation="oblique", sop_class=phantoms.CT))
    ds = parsed(write_contours(labels, volume, findings(context()), source, context()))
    to_index = np.linalg.inv(volume.affine)
    for n, item in enumerate(ds.ROIContourSequence, 1):
        found: dict[int, float] = {}
        for contour in item.ContourSequence:
            places = np.array(contour.ContourData, float).reshape(-1, 3)
            index = np.c_[places, np.ones(len(places))] @ to_index.T
            k = round(float(index[:, 0].mean()))
            assert np.abs(index[:, 0] - k).max() < 1e-3
            image = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
            assert image == source.frames[k].sop_instance_uid
            ring = index[:, 1:3]
            found[k] = found.get(k, 0) + area(np.vstack([ring, ring[:1]]))
        counts = (labels == n).sum(axis=(1, 2))
        assert found == pytest.approx({k: counts[k] for k in np.flatnonzero(counts)}, rel=1e-3)
    assert [one.ROIName for one in ds.StructureSetROISequence] == ["Brain", "Right ventricle", "Left ventricle"]


def test_a_presentation_draws_each_finding_where_it_is_largest(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    ds = parsed(write_presentation(labels, volume, findings(context()), source, context()))
    told = {
        text.UnformattedTextValue: one.ReferencedImageSequence[0].ReferencedSOPInstanceUID
        for one in ds.GraphicAnnotationSequence
        for text in one.TextObjectSequence
    }
    largest = [int((labels == n).sum(axis=(1, 2)).argmax()) for n in (1, 2, 3)]
    assert told == {
        name: source.frames[k].sop_instance_uid
        for name, k in zip(("Brain", "Right ventricle", "Left ventricle"), largest, strict=True)
    }
    referenced = {one.ReferencedSOPInstanceUID for one in ds.ReferencedSeriesSequence[0].ReferencedImageSequence}
    assert referenced == set(told.values())


def test_a_retraction_names_what_is_taken_back_and_no_image(tmp_path: Path) -> None:
    _, _, source = read_phantom(tmp_path)
    ds = parsed(write_retraction([OLD], source, context()))
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113001"
    (item,) = (one for one in ds.ContentSequence if one.ValueType == "COMPOSITE")
    assert item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.7"
    assert not [one for one in ds.ContentSequence if one.ValueType == "IMAGE"]


def test_a_page_of_nothing_says_so_and_a_page_of_many_is_one_page(tmp_path: Path) -> None:
    many = [replace(one, measurements=one.measurements * 5) for one in findings(context(), 120)]
    picture = np.zeros((540, 820, 3), np.uint8)
    for found in ([], many):
        pdf = printed(found, picture, "", context(limits="Limits. " * 20))
        assert pdf.count(b"/Type /Page\n") == 1
    assert tmp_path.exists()


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    for write in (write_presentation, write_contours):
        with pytest.raises(ResultRejected, match="empty"):
            write(labels * 0, volume, findings(context()), source, context())


def test_a_picture_shows_colour_where_the_finding_is_and_nowhere_else(tmp_path: Path) -> None:
    labels, volume, _ = read_phantom(tmp_path)
    found = findings(context())
    segments = find_segments(labels, volume, found)
    k = key_slices(segments)[0]
    plain = drawn(k, labels * 0, volume, find_segments(labels * 0, volume, found), context())
    coloured = drawn(k, labels, volume, segments, context())
    changed = (plain != coloured).any(axis=2)[28:-30, : plain.shape[1] - LEGEND]
    rows = np.flatnonzero(labels[k].any(axis=1))
    scale = changed.shape[0] / labels.shape[1]
    seen = np.nonzero(changed)
    assert seen[0].min() == pytest.approx(rows.min() * scale, abs=4)
    assert seen[0].max() == pytest.approx((rows.max() + 1) * scale, abs=4)


def test_a_label_map_holds_the_same_numbers_as_segments_of_their_own(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    labels[labels == 2] = 7  # segment numbers are consecutive all the same
    found = [replace(one, segment_number=7) if one.segment_number == 2 else one for one in findings(context())]
    ds = parsed(write_label_map(labels, volume, found, source, context()))
    assert [(one.SegmentNumber, one.SegmentLabel) for one in ds.SegmentSequence] == [
        (1, "Brain"), (2, "Left ventricle"), (3, "Right ventricle"),
    ]  # fmt: skip
    slices = np.flatnonzero(labels.any(axis=(1, 2)))
    assert np.array_equal(ds.pixel_array, np.array([0, 1, 0, 2, 0, 0, 0, 3], np.uint8)[labels[slices]])
    places = [one.PlanePositionSequence[0].ImagePositionPatient[2] for one in ds.PerFrameFunctionalGroupsSequence]
    assert places == [source.planes[k].position[2] for k in slices]


def test_a_probability_map_reads_back_as_probabilities_where_the_voxels_are(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    probability = labels * np.uint8(85)
    (tmp_path / "map.dcm").write_bytes(write_probability_map(probability, "mass", volume, source, context()))
    with lenient():
        read = hd.imread(tmp_path / "map.dcm").get_volume(apply_real_world_transform=True)
    there = np.flatnonzero(probability.any(axis=(1, 2)))
    first, last = there[0], there[-1] + 1
    upward = bool(np.allclose(read.affine[:3, 3], (volume.affine @ [first, 0, 0, 1])[:3], atol=1e-3))
    assert upward or np.allclose(read.affine[:3, 3], (volume.affine @ [last - 1, 0, 0, 1])[:3], atol=1e-3)
    assert (read.array if upward else read.array[::-1]) == pytest.approx(probability[first:last] / 255)

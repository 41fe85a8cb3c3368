"""Somebody else's SEG lands on the voxels that it means, however its frames are cut, turned or ordered; else not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from appliance.errors import ResultRejected
from dicom_nodes.label_objects import read_label_object
from dicom_nodes.label_reader import read_labels
from dicom_nodes.segmentation import write_label_map, write_segmentation
from tests import phantoms
from tests.made_up import context, findings, read_phantom
from tests.phantoms import Phantom

IDENTITY = {1: 1, 2: 2, 3: 3}


def written(folder: Path, change: Callable[[Dataset], None] | None = None, phantom: Phantom | None = None) -> Path:
    labels, volume, source = read_phantom(folder / "images", phantom)
    ds = dcmread(io.BytesIO(bytes(write_segmentation(labels, volume, findings(context()), source, context()))))
    if change:
        change(ds)
    path = folder / "seg.dcm"
    ds.save_as(path)
    return path


def reversed_frames(ds: Dataset) -> None:
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    frames = bits[: ds.NumberOfFrames * ds.Rows * ds.Columns].reshape(ds.NumberOfFrames, -1)[::-1]
    ds.PerFrameFunctionalGroupsSequence = list(ds.PerFrameFunctionalGroupsSequence)[::-1]
    ds.PixelData = phantoms.padded(np.packbits(frames.ravel(), bitorder="little").tobytes())


def upside_down(ds: Dataset) -> None:
    """Turn each frame's rows round, and say so."""
    _turn(ds, lambda frames: frames[:, ::-1], row_flip=True)


def transposed(ds: Dataset) -> None:
    """Exchange rows and columns, and say so."""
    _turn(ds, lambda frames: frames.transpose(0, 2, 1), row_flip=False)


def _turn(ds: Dataset, turn: Callable[..., phantoms.Array], *, row_flip: bool) -> None:
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    frames = turn(bits[: ds.NumberOfFrames * ds.Rows * ds.Columns].reshape(-1, ds.Rows, ds.Columns))
    shared = ds.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    spacing = [float(one) for one in shared.PixelMeasuresSequence[0].PixelSpacing]
    if row_flip:
        for item in ds.PerFrameFunctionalGroupsSequence:
            place = item.PlanePositionSequence[0]
            last = np.array(place.ImagePositionPatient, float) + axes[1] * spacing[0] * (ds.Rows - 1)
            place.ImagePositionPatient = [float(round(one, 6)) for one in last]
        axes = axes * [[1], [-1]]
    else:
        axes, spacing = axes[::-1], spacing[::-1]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [float(one) for one in axes.ravel()]
    shared.PixelMeasuresSequence[0].PixelSpacing = spacing
    ds.Rows, ds.Columns = frames.shape[1:]
    ds.PixelData = phantoms.padded(np.packbits(frames.ravel(), bitorder="little").tobytes())


@pytest.mark.parametrize("change", [None, reversed_frames, upside_down, transposed])
@pytest.mark.parametrize("orientation", ["axial", "oblique"])
def test_labels_land_where_they_mean(
    tmp_path: Path, change: Callable[[Dataset], None] | None, orientation: str
) -> None:
    phantom = Phantom(orientation=orientation)
    path = written(tmp_path, change, phantom)
    labels, volume, _ = read_phantom(tmp_path / "images", phantom)
    assert np.array_equal(read_labels(path, volume, IDENTITY), labels)


def test_a_label_map_is_read_and_what_is_not_asked_for_is_left_out(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path / "images")
    path = tmp_path / "map.dcm"
    path.write_bytes(bytes(write_label_map(labels, volume, findings(context()), source, context())))
    assert np.array_equal(read_labels(path, volume, {2: 7}), np.where(labels == 2, 7, 0))


def test_a_segmentation_of_highdicom_is_read(tmp_path: Path) -> None:
    labels, volume, _ = read_phantom(tmp_path / "images")
    images = [dcmread(path) for path in sorted((tmp_path / "images").iterdir())]
    images.sort(key=lambda one: int(one.InstanceNumber))
    described = hd.seg.SegmentDescription(
        1, "Brain", hd.sr.CodedConcept("91723000", "SCT", "Anatomical Structure"),
        hd.sr.CodedConcept("12738006", "SCT", "Brain"), hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )  # fmt: skip
    made = hd.seg.Segmentation(
        images, (labels == 1).astype(np.uint8), "BINARY", [described], hd.UID(), 1, hd.UID(), 1, "Other", "Brush", "1",
        "7",
    )  # fmt: skip
    made.save_as(tmp_path / "other.dcm")
    told = read_label_object(tmp_path / "other.dcm")
    assert [(one.number, one.name, one.code) for one in told.structures] == [(1, "Brain", ("12738006", "SCT"))]
    assert told.series == {images[0].SeriesInstanceUID}
    assert np.array_equal(read_labels(tmp_path / "other.dcm", volume, {1: 1}), labels == 1)


def half_resolution(ds: Dataset) -> None:
    measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = [2 * float(one) for one in measures.PixelSpacing]


def between_slices(ds: Dataset) -> None:
    for item in ds.PerFrameFunctionalGroupsSequence:
        item.PlanePositionSequence[0].ImagePositionPatient[2] += 1.5


def elsewhere(ds: Dataset) -> None:
    for item in ds.PerFrameFunctionalGroupsSequence:
        item.PlanePositionSequence[0].ImagePositionPatient[2] += 300


def fractional(ds: Dataset) -> None:
    ds.SegmentationType = "FRACTIONAL"


def overlapping(ds: Dataset) -> None:
    for item in ds.PerFrameFunctionalGroupsSequence[1:]:
        item.PlanePositionSequence = ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


def cut(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:100]


def without_segment(ds: Dataset) -> None:
    del ds.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (half_resolution, "size and direction"),
        (between_slices, "does not lie on the voxels"),
        (elsewhere, "beyond the images"),
        (fractional, "neither a binary"),
        (overlapping, "overlap"),
        (cut, "announced"),
        (without_segment, "which segment"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Callable[[Dataset], None], words: str) -> None:
    path = written(tmp_path, change)
    _, volume, _ = read_phantom(tmp_path / "images")
    with pytest.raises(ResultRejected, match=words):
        read_labels(path, volume, IDENTITY)


def test_a_file_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    _, volume, _ = read_phantom(tmp_path / "images")
    (tmp_path / "text").write_text("no")
    with pytest.raises(ResultRejected):
        read_labels(tmp_path / "text", volume, IDENTITY)

"""Contours that we write come back voxel for voxel; a hole may be a contour of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from appliance.errors import ResultRejected
from dicom_nodes.contour_reader import filled, read_contours
from dicom_nodes.contour_set import write_contours
from dicom_nodes.label_objects import read_label_object
from tests.made_up import blobs, context, findings, read_phantom
from tests.phantoms import Phantom


def square(first: float, last: float) -> np.ndarray:
    return np.array([(first, first), (first, last), (last, last), (last, first)])


def test_a_pixel_belongs_to_a_polygon_by_its_centre() -> None:
    assert filled(square(0.5, 3.5), (6, 6)).sum() == 9
    assert filled(square(0.9, 3.1), (6, 6)).sum() == 9
    assert filled(square(1.1, 2.9), (6, 6)).sum() == 1
    assert filled(square(-9.0, 9.0), (6, 6)).all()


def test_a_slanted_edge_is_followed() -> None:
    triangle = np.array([(-0.5, -0.5), (-0.5, 9.5), (9.5, 9.5)])
    row, column = np.mgrid[:10, :10]
    assert np.array_equal(filled(triangle, (10, 10))[row != column], (column > row)[row != column])


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "oblique"])
def test_contours_come_back_voxel_for_voxel(tmp_path: Path, orientation: str) -> None:
    labels, volume, source = read_phantom(tmp_path / "images", Phantom(orientation=orientation))
    path = tmp_path / "rt.dcm"
    path.write_bytes(write_contours(labels, volume, findings(context()), source, context()))
    told = read_label_object(path)
    assert [(one.number, one.name) for one in told.structures] == [
        (1, "Brain"), (2, "Right ventricle"), (3, "Left ventricle"),
    ]  # fmt: skip
    assert told.structures[0].code == ("12738006", "SCT")
    assert told.series == {volume.series_instance_uid}
    assert told.frame_of_reference == volume.frame_of_reference_uid
    assert np.array_equal(read_contours(path, volume, {1: 1, 2: 2, 3: 3}), labels)


def test_nested_structures_with_keyholes_come_back(tmp_path: Path) -> None:
    _, volume, source = read_phantom(tmp_path / "images")
    labels = blobs(volume.shape, 3)
    path = tmp_path / "rt.dcm"
    path.write_bytes(write_contours(labels, volume, findings(context()), source, context()))
    assert np.array_equal(read_contours(path, volume, {1: 1, 2: 2, 3: 3}), labels)


def with_contours(folder: Path, change: Callable[[Dataset], None]) -> Path:
    labels, volume, source = read_phantom(folder / "images")
    path = folder / "rt.dcm"
    path.write_bytes(write_contours(labels, volume, findings(context()), source, context()))
    ds = dcmread(path)
    change(ds)
    ds.save_as(path)
    return path


def test_a_second_contour_within_one_is_a_hole(tmp_path: Path) -> None:
    _, volume, _ = read_phantom(tmp_path / "images")

    def contour(first: float, last: float) -> Dataset:
        item = Dataset()
        corners = np.c_[np.full(4, 5.0), square(first, last), np.ones(4)]
        item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", 4
        item.ContourData = [round(float(one), 4) for one in (corners @ volume.affine.T)[:, :3].ravel()]
        return item

    def change(ds: Dataset) -> None:
        ds.ROIContourSequence[0].ContourSequence = [contour(2.5, 12.5), contour(5.5, 8.5)]

    found = read_contours(with_contours(tmp_path, change), volume, {1: 4})
    assert (found == 4).sum() == 100 - 9
    assert set(np.argwhere(found)[:, 0]) == {5}


def open_line(ds: Dataset) -> None:
    ds.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"


def two_points(ds: Dataset) -> None:
    ds.ROIContourSequence[0].ContourSequence[0].ContourData = [0, 0, 0, 1, 1, 1]


def between_slices(ds: Dataset) -> None:
    item = ds.ROIContourSequence[0].ContourSequence[0]
    item.ContourData = [float(one) + 1.5 * (n % 3 == 2) for n, one in enumerate(item.ContourData)]


@pytest.mark.parametrize(
    ("change", "words"),
    [(open_line, "closed"), (two_points, "closed"), (between_slices, "slice")],
)
def test_what_is_no_closed_contour_of_a_slice_is_refused(
    tmp_path: Path, change: Callable[[Dataset], None], words: str
) -> None:
    path = with_contours(tmp_path, change)
    _, volume, _ = read_phantom(tmp_path / "images")
    with pytest.raises(ResultRejected, match=words):
        read_contours(path, volume, {1: 1})

"""The contours of an RT Structure Set back to a label map on the grid of a Volume.

A voxel belongs to a structure where its centre lies inside of an odd number of contours of its slice (even-odd), so
that a hole may be a contour of its own or a keyhole (PS3.3 C.8.8.6.3). It must never fill between slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from appliance.errors import InstanceRefused, ResultRejected
from appliance.volume import Volume
from dicom_nodes.header import read_header
from dicom_nodes.label_reader import Labels, put
from dicom_nodes.values import items, numbers, text, whole

ROI_CONTOURS, REFERENCED_ROI, CONTOURS, KIND, POINTS = 0x30060039, 0x30060084, 0x30060040, 0x30060042, 0x30060050
OFF_SLICE = 0.2  # of the distance of slices, by which a contour may be off one
FEWEST_POINTS = 3

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def read_contours(path: Path, volume: Volume, labels_of: Mapping[int, int]) -> Labels:
    """Return the labels (k, j, i) on the grid of `volume`; `labels_of`: ROI Number → label, others are left out.

    Raises ResultRejected for contours that are no closed polygons in slices of the volume, and for structures that
    overlap.
    """
    try:
        ds = read_header(path)
    except InstanceRefused as error:
        raise ResultRejected(str(error)) from error
    labels = np.zeros(volume.shape, np.uint8)
    to_index: Points = np.linalg.inv(volume.affine).astype(np.float64)
    for roi in items(ds, ROI_CONTOURS):
        label = labels_of.get(whole(roi, REFERENCED_ROI, 0), 0)
        if label:
            for k, mask in _slices(roi, to_index, volume.shape[1:]).items():
                inside = np.argwhere(mask)
                put(labels, label, np.c_[np.full(len(inside), k), inside])
    return labels


def _slices(roi: Dataset, to_index: Points, shape: tuple[int, ...]) -> dict[int, Mask]:
    """Return what lies inside of the contours of one structure, by slice k."""
    found: dict[int, Mask] = {}
    for item in items(roi, CONTOURS):
        if text(item, KIND) == "POINT":
            continue
        corners = _corners(item, to_index)
        k = round(float(corners[:, 0].mean()))
        if np.abs(corners[:, 0] - k).max() > OFF_SLICE:
            raise ResultRejected("a contour does not lie in a slice of the images")
        found[k] = found.get(k, np.zeros(shape, np.bool_)) ^ filled(corners[:, 1:], shape)
    return found


def _corners(item: Dataset, to_index: Points) -> Points:
    """Return the corners (n, 3) of one closed contour as (k, j, i)."""
    values = numbers(item, POINTS)
    if not text(item, KIND).startswith("CLOSED") or not values or len(values) % 3 or len(values) < 3 * FEWEST_POINTS:
        raise ResultRejected("a contour is no closed polygon")
    places = np.array(values).reshape(-1, 3)
    if not np.isfinite(places).all():
        raise ResultRejected("a contour is no closed polygon")
    corners: Points = (np.c_[places, np.ones(len(places))] @ to_index.T)[:, :3]
    return corners


def filled(ring: Points, shape: tuple[int, ...]) -> Mask:
    """Return the pixels (rows, columns) whose centres lie inside of a polygon of (row, column), by even and odd."""
    following = np.roll(ring, -1, axis=0)
    crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
    for (row, column), (next_row, next_column) in zip(ring, following, strict=True):
        low, high = sorted((row, next_row))
        rows = np.arange(max(0, int(np.ceil(low))), min(shape[0], int(np.ceil(high))))
        if not len(rows):
            continue
        at = column + (rows - row) * (next_column - column) / (next_row - row)
        first_right = np.clip(np.ceil(at), 0, shape[1]).astype(np.int64)
        np.add.at(crossings, (rows, first_right), 1)
    inside: Mask = crossings.cumsum(axis=1)[:, :-1] % 2 == 1
    return inside

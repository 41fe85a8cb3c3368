"""A SEG file back to a label map on a grid, as a viewer would place it: by position in the patient, not by order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread

from appliance.errors import ResultRejected
from appliance.volume import Array, Volume

TOLERANCE = 0.01  # of a voxel


def read_segmentation(path: Path, volume: Volume) -> Array:
    """Return the uint8 label map (k, j, i) of a BINARY SEG, by its segment numbers, on the grid of `volume`.

    Raises ResultRejected when a frame does not lie on a slice of the grid (PS3.3 C.7.6.16.2.3).
    """
    ds = dcmread(path)
    label_map = np.zeros(volume.shape, np.uint8)
    for number, mask, k in _frames(ds, volume):
        label_map[k][mask] = number
    return label_map


def read_masks(path: Path) -> dict[str, dict[tuple[float, ...], Array]]:
    """Return Segment Label → position of a frame (LPS mm, two decimals) → its pixels, of a BINARY SEG."""
    ds = dcmread(path)
    labels = {int(item.SegmentNumber): str(item.SegmentLabel) for item in ds.SegmentSequence}
    found: dict[str, dict[tuple[float, ...], Array]] = {}
    for item, mask in zip(ds.PerFrameFunctionalGroupsSequence, _bits(ds), strict=True):
        place = tuple(round(float(v), 2) for v in item.PlanePositionSequence[0].ImagePositionPatient)
        found.setdefault(labels[_segment(item)], {})[place] = mask
    return found


def tracked_segments(path: Path) -> dict[int, str]:
    """Return Segment Number → Tracking UID; numbers are consecutive, whatever the package's are (PS3.3 C.8.20.2)."""
    ds = dcmread(path, stop_before_pixels=True)
    return {int(item.SegmentNumber): str(item.TrackingUID) for item in ds.SegmentSequence}


def shown_segments(path: Path) -> list[tuple[int, str, tuple[int, int, int]]]:
    """Return Segment Number, Segment Label and recommended colour (sRGB; grey where none is named) of each segment."""
    ds = dcmread(path, stop_before_pixels=True)
    return [
        (int(item.SegmentNumber), str(item.SegmentLabel), _rgb(item.get("RecommendedDisplayCIELabValue")))
        for item in ds.SegmentSequence
    ]


def _rgb(encoded: Any) -> tuple[int, int, int]:
    """Return the sRGB colour of a CIELab value as PS3.3 C.10.7.1.1 encodes it."""
    from highdicom.color import CIELabColor

    if encoded is None or len(encoded) != 3:
        return 160, 160, 160
    red, green, blue = CIELabColor.from_dicom_value(list(encoded)).to_rgb()
    return int(red), int(green), int(blue)


def _frames(ds: Dataset, volume: Volume) -> list[tuple[int, Array, int]]:
    rows, columns = int(ds.Rows), int(ds.Columns)
    if (rows, columns) != volume.shape[1:]:
        raise ResultRejected(f"the SEG has {rows}×{columns} pixels, the images {volume.shape[1]}×{volume.shape[2]}")
    masks = _bits(ds)
    to_index = np.linalg.inv(volume.affine)
    return [
        (_segment(item), masks[n], _slice(item, to_index)) for n, item in enumerate(ds.PerFrameFunctionalGroupsSequence)
    ]


def _bits(ds: Dataset) -> Array:
    """Return the frames (n, rows, columns) bool."""
    shape = int(ds.NumberOfFrames), int(ds.Rows), int(ds.Columns)
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    return bits[: shape[0] * shape[1] * shape[2]].reshape(shape).astype(bool)


def _segment(item: Dataset) -> int:
    return int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _slice(item: Dataset, to_index: Array) -> int:
    position = [float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient]
    k, j, i = (to_index @ [*position, 1.0])[:3]
    if max(abs(k - round(k)), abs(j), abs(i)) > TOLERANCE:
        raise ResultRejected("a frame of the SEG does not lie on a slice of the images")
    return int(round(k))  # noqa: RUF046 - a numpy float stays one when rounded

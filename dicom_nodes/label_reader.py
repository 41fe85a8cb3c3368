"""Somebody else's SEG back to a label map on the grid of a Volume: every pixel by its place in the patient.

Whoever wrote it may have cut, turned or reordered its frames. It must never guess: what does not lie on the voxels of
the volume is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from appliance.errors import InstanceRefused, ResultRejected, StudyBlocked
from appliance.study import FrameGeometry
from appliance.volume import Affine, Array, Volume
from dicom_nodes.decode import decode_in_child
from dicom_nodes.header import PER_FRAME, SHARED, geometry, read_open
from dicom_nodes.pixels import BIG_ENDIAN, NATIVE, check_pixels, transfer_syntax
from dicom_nodes.values import items, text, whole

TOLERANCE = 0.2  # of a voxel, by which the centre of a pixel may be off that of a voxel
STEP_TOLERANCE = 0.02  # of a voxel, by which the step from pixel to pixel may differ from one voxel
SEGMENTATION_TYPE, PIXEL_DATA, SEGMENT_GROUP, REFERENCED_SEGMENT = 0x00620001, 0x7FE00010, 0x0062000A, 0x0062000B

Labels = npt.NDArray[np.uint8]


def read_labels(path: Path, volume: Volume, numbers: Mapping[int, int]) -> Labels:
    """Return the labels (k, j, i) on the grid of `volume`; `numbers`: Segment Number → label, others are left out.

    Raises ResultRejected for a file that is no SEG of whole pixels, and where a pixel lies off the voxels or belongs
    to two labels.
    """
    try:
        with path.open("rb") as file:
            ds = read_open(file, pixels=True)
        frames = _frames(ds, path)
    except (InstanceRefused, StudyBlocked) as error:
        raise ResultRejected(str(error)) from error
    labels = np.zeros(volume.shape, np.uint8)
    to_index: Affine = np.linalg.inv(volume.affine).astype(np.float64)
    segments = _segments(ds, len(frames))
    for plane, pixels, segment in zip(geometry(ds), frames, segments, strict=True):
        for number in (int(one) for one in np.unique(pixels) if one):
            label = numbers.get(segment or number, 0)
            if label:
                put(labels, label, _voxels(plane, np.argwhere(pixels == number), to_index))
    return labels


def put(labels: Labels, label: int, voxels: npt.NDArray[np.int64]) -> None:
    """Give voxels (n, 3) their label. Raises ResultRejected where one is outside or has another label already."""
    if not len(voxels):
        return
    if voxels.min() < 0 or (voxels >= labels.shape).any():
        raise ResultRejected("it reaches beyond the images")
    place = tuple(voxels.T)
    before = labels[place]
    if ((before != 0) & (before != label)).any():
        raise ResultRejected("some of its structures overlap")
    labels[place] = label


def _frames(ds: Dataset, path: Path) -> Array:
    """Return the pixels (frames, rows, columns): 0 and 1, or Segment Numbers in a label map."""
    kind = text(ds, SEGMENTATION_TYPE)
    if kind not in ("BINARY", "LABELMAP"):
        raise ResultRejected("it is neither a binary segmentation nor a label map")
    if PIXEL_DATA not in ds:
        return np.zeros((0, 1, 1), np.uint8)
    if transfer_syntax(ds) not in NATIVE:
        (found,) = decode_in_child([path])
        return found
    value = bytes(ds[PIXEL_DATA].value)
    layout = check_pixels(ds, len(value))
    shape = (layout.frames, layout.rows, layout.columns)
    if layout.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(value, np.uint8), bitorder="little", count=int(np.prod(shape)))
        return bits.reshape(shape)
    order = layout.dtype(big_endian=transfer_syntax(ds) == BIG_ENDIAN)
    return np.frombuffer(value, order, count=int(np.prod(shape))).reshape(shape)


def _segments(ds: Dataset, frames: int) -> list[int]:
    """Return the Segment Number of each frame; 0 in a label map, whose pixels say it."""
    if text(ds, SEGMENTATION_TYPE) == "LABELMAP":
        return [0] * frames
    shared = _segment(next(iter(items(ds, SHARED)), Dataset()))
    found = [_segment(item) or shared for item in items(ds, PER_FRAME)]
    if len(found) != frames or 0 in found:
        raise ResultRejected("its frames do not say which segment they show")
    return found


def _segment(item: Dataset) -> int:
    return whole(next(iter(items(item, SEGMENT_GROUP)), Dataset()), REFERENCED_SEGMENT, 0)


def _voxels(plane: FrameGeometry, pixels: npt.NDArray[np.int64], to_index: Affine) -> npt.NDArray[np.int64]:
    """Return the voxels (n, 3) at which pixels (n, 2) of a plane lie."""
    if plane.problem or not (plane.position and plane.orientation and plane.pixel_spacing):
        raise ResultRejected("a frame of it does not say where it lies")
    along_row, along_column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    steps = np.c_[along_column * plane.pixel_spacing[0], along_row * plane.pixel_spacing[1]]
    turned = to_index[:3, :3] @ steps
    if not _are_voxel_steps(turned.T):
        raise ResultRejected("its pixels are not of the size and direction of the images'")
    first = (to_index @ [*plane.position, 1.0])[:3]
    places = first + pixels @ turned.T
    nearest: Array = np.rint(places)
    if len(places) and np.abs(places - nearest).max() > TOLERANCE:
        raise ResultRejected("a frame of it does not lie on the voxels of the images")
    found: npt.NDArray[np.int64] = nearest.astype(np.int64)
    return found


def _are_voxel_steps(steps: Sequence[Array]) -> bool:
    """Tell whether both steps go from one voxel to a neighbour, along different axes."""
    whole_steps = [np.rint(step) for step in steps]
    close = all(np.abs(step - near).max() < STEP_TOLERANCE for step, near in zip(steps, whole_steps, strict=True))
    one, other = (np.abs(near) for near in whole_steps)
    return bool(close and one.sum() == other.sum() == 1 and one @ other == 0)

"""Files of one series → one Volume: sorted by geometry, checked, rescaled; and clean headers for the writers.

Takes classic single-frame files (one a slice) and enhanced multi-frame files (one or more), native or
compressed, little or big endian. It must never guess: what does not form one regular grid of understood
numbers ends as StudyUnsuitable, what contradicts itself as StudyBlocked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from appliance import geometry as grid
from appliance.errors import StudyBlocked, StudyUnsuitable
from appliance.job import derived_uid
from appliance.study import FrameGeometry
from appliance.volume import Array, SourceFrame, Volume
from dicom_nodes.header import SHARED, frame_items, geometry
from dicom_nodes.image_file import FrameReader, ImageFile, open_image
from dicom_nodes.pixels import PixelLayout
from dicom_nodes.source import SourceHeaders, cleaned
from dicom_nodes.values import items, numbers, text

TRANSFORMATION_GROUP, INTERCEPT, SLOPE, RESCALE_TYPE = 0x00289145, 0x00281052, 0x00281053, 0x00281054
MODALITY_LUT = 0x00283000
PATIENT, STUDY, SERIES = 0x00100020, 0x0020000D, 0x0020000E
MODALITY, SOP_CLASS, FRAME_OF_REFERENCE = 0x00080060, 0x00080016, 0x00200052
IDENTITY = (1.0, 0.0)

Rescale = tuple[float, float]  # slope, intercept


@dataclass(frozen=True)
class _Slice:
    """One plane of the series."""

    image: int  # index of the file
    frame: int  # counted from 0
    plane: FrameGeometry
    rescale: Rescale


def read_volume(paths: Sequence[Path]) -> Volume:
    """Return the voxels of one series as (k, j, i): int16 where stored values are the values, else float32.

    Raises StudyUnsuitable when the files are no regular grid of understood numbers, StudyBlocked when a
    file contradicts itself, is cut or cannot be decoded.
    """
    return read_series(paths)[0]


def read_source(paths: Sequence[Path]) -> SourceHeaders:
    """Return the clean headers of one series in slice order, without reading pixels; raises as read_volume."""
    images = _open_all(paths)
    return _source(images, _sorted(_slices(images))[0])


def read_series(paths: Sequence[Path]) -> tuple[Volume, SourceHeaders]:
    """Return both, reading each header once; raises as read_volume."""
    images = _open_all(paths)
    return _volume(images, *_sorted(_slices(images)))


def read_sequence(paths: Sequence[Path]) -> list[tuple[Volume, SourceHeaders]]:
    """Return volume and headers of each moment of a series over time, in the order of time; raises as read_volume."""
    images = _open_all(paths)
    slices = _slices(images)
    stacks = grid.over_time([one.plane for one in slices])
    return [_volume(images, [slices[n] for n in stack.order], stack) for stack in stacks]


def read_slice(path: Path) -> tuple[Array, tuple[float, float]]:
    """Return the values (rows, columns) of a file with one frame, and the spacing of rows and columns in mm."""
    images = _open_all([path])
    (one,) = _slices(images)
    return _voxels(images, [one])[0], one.plane.pixel_spacing or (1.0, 1.0)


def _volume(images: Sequence[ImageFile], slices: Sequence[_Slice], stack: grid.Stack) -> tuple[Volume, SourceHeaders]:
    source = _source(images, slices)
    reference, derived = _frame_of_reference(images)
    volume = Volume(
        voxels=_voxels(images, slices),
        affine=stack.affine,
        frames=source.frames,
        series_instance_uid=text(images[0].header, SERIES),
        frame_of_reference_uid=reference,
        frame_of_reference_derived=derived,
        modality=text(images[0].header, MODALITY),
        time_ms=_time_ms(slices),
    )
    return volume, source


def _time_ms(slices: Sequence[_Slice]) -> float | None:
    """Return the mean time of the slices after the R-wave; None where one of them does not say it."""
    times = [one.plane.trigger_ms for one in slices if one.plane.trigger_ms is not None]
    return sum(times) / len(times) if len(times) == len(slices) else None


def _open_all(paths: Sequence[Path]) -> list[ImageFile]:
    if not paths:
        raise StudyUnsuitable("the series holds no image")
    images = [open_image(path) for path in paths]
    for tag, what in ((PATIENT, "patients"), (STUDY, "studies"), (SERIES, "series")):
        found = len({text(image.header, tag) for image in images})
        if found > 1:
            raise StudyBlocked(f"the images of one series belong to {found} {what}")
    return images


def _slices(images: Sequence[ImageFile]) -> list[_Slice]:
    found = []
    for n, image in enumerate(images):
        planes = geometry(image.header)
        rescales = _rescales(image.header, len(planes))
        found += [_Slice(n, f, plane, rescales[f]) for f, plane in enumerate(planes)]
    return found


def _sorted(slices: Sequence[_Slice]) -> tuple[list[_Slice], grid.Stack]:
    stack = grid.stack([one.plane for one in slices])
    return [slices[n] for n in stack.order], stack


def _source(images: Sequence[ImageFile], slices: Sequence[_Slice]) -> SourceHeaders:
    frames = tuple(
        SourceFrame(text(images[one.image].header, SOP_CLASS), one.plane.sop_instance_uid, one.plane.frame)
        for one in slices
    )
    return SourceHeaders(cleaned(images[slices[0].image].header), tuple(one.plane for one in slices), frames)


def _frame_of_reference(images: Sequence[ImageFile]) -> tuple[str, bool]:
    """Return the one Frame of Reference of all images, else one derived of the series, and whether it is."""
    found = {text(image.header, FRAME_OF_REFERENCE) for image in images}
    if len(found) == 1 and "" not in found:
        return found.pop(), False
    return derived_uid("frame-of-reference", text(images[0].header, SERIES)), True


def _rescales(ds: Dataset, frames: int) -> list[Rescale]:
    """Return slope and intercept of each frame (PS3.3 C.7.6.16.2.9, C.11.1)."""
    per_frame = frame_items(ds)
    if not per_frame:
        return [_rescale(ds, ds)] * frames
    shared = next(iter(items(ds, SHARED)), Dataset())
    groups = (items(item, TRANSFORMATION_GROUP) or items(shared, TRANSFORMATION_GROUP) for item in per_frame)
    return [_rescale(next(iter(group), Dataset()), ds) for group in groups]


def _rescale(group: Dataset, ds: Dataset) -> Rescale:
    slope, intercept = numbers(group, SLOPE), numbers(group, INTERCEPT)
    if slope == () and intercept == ():
        if MODALITY_LUT in ds:
            raise StudyUnsuitable("the images need a Modality LUT, which is not supported")
        if text(ds, MODALITY) == "CT":
            raise StudyUnsuitable("the CT images have no Rescale Slope and Intercept, so no Hounsfield units")
        return IDENTITY
    if not slope or intercept is None or slope[0] == 0:
        raise StudyUnsuitable("Rescale Slope or Intercept is zero, missing or not a number")
    values = (slope[0], intercept[0] if intercept else 0.0)
    if not all(math.isfinite(value) for value in values):
        raise StudyUnsuitable("Rescale Slope or Intercept is not a finite number")
    return values


def _voxels(images: Sequence[ImageFile], slices: Sequence[_Slice]) -> Array:
    """Return the rescaled values of all slices."""
    reader = FrameReader(images)
    identity = all(one.rescale == IDENTITY for one in slices)
    stored = _whole_dtype([images[one.image].layout for one in slices]) if identity else np.dtype(np.float32)
    rows, columns = slices[0].plane.rows, slices[0].plane.columns
    voxels: npt.NDArray[Any] = np.empty((len(slices), rows, columns), stored)
    for k, one in enumerate(slices):
        values = _upright(reader.frame(one.image, one.frame), images[one.image])
        slope, intercept = one.rescale
        voxels[k] = values
        if not identity:
            voxels[k] *= np.float32(slope)
            voxels[k] += np.float32(intercept)
    if stored == np.uint16:
        return voxels.view(np.int16) if voxels.max() < 1 << 15 else voxels.astype(np.float32)
    return voxels


def _whole_dtype(layouts: Sequence[PixelLayout]) -> np.dtype[np.generic]:
    """Return the type that holds the stored values of all images: int16, uint16 for now, or float32."""
    if any(layout.floating or layout.bits_stored > 16 for layout in layouts):
        return np.dtype(np.float32)
    if all(layout.signed or layout.bits_stored < 16 for layout in layouts):
        return np.dtype(np.int16)
    return np.dtype(np.uint16 if not any(layout.signed for layout in layouts) else np.float32)


def _upright(values: Array, image: ImageFile) -> Array:
    """Return values that rise with brightness: MONOCHROME1 turned round within its stored range.

    Hounsfield units are physical, whatever the display says (PS3.3 C.7.6.3.1.2), and stay as they are.
    """
    layout = image.layout
    if layout.photometric != "MONOCHROME1" or text(image.header, MODALITY) == "CT":
        return values
    if layout.floating:
        return np.negative(values.astype(np.float32))
    half = 1 << layout.bits_stored - 1
    ends = -1 if layout.signed else 2 * half - 1  # lowest plus highest stored value
    return np.asarray(ends - values.astype(np.int64)).astype(values.dtype)

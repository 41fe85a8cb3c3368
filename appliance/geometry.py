"""From image planes to one regular stack: order, affine, spacing, or a sentence why there is none.

Every image plane says where its first voxel lies and how it is turned (PS3.3 C.7.6.2.1.1). Slices are
sorted by where they lie along the normal, never by instance number. This module must never repair what it
finds (no guessing of spacings, no filling of gaps), and no sentence may hold anything of the patient.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from appliance.errors import StudyUnsuitable
from appliance.study import FrameGeometry
from appliance.volume import Affine

ORIENTATION_TOLERANCE = 1e-3  # of a direction cosine: rounding in headers, no real turn
PIXEL_SPACING_TOLERANCE = 1e-3  # relative
SAME_PLACE_MM = 0.01  # slices nearer than this lie at one place
GAP_FACTOR = 1.5  # a step of more than this many median steps: slices are missing
SPACING_TOLERANCE = 0.05  # of the median step, for the other steps
SPACING_ROUNDING_MM = 0.02  # or this much, for positions written with two decimals
TILT_TOLERANCE_DEG = 0.1  # between the slice step and the normal
SHIFT_TOLERANCE_MM = 0.1  # of one slice sideways from the line of the others

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stack:
    """Planes of one series as one regular grid."""

    order: tuple[int, ...]  # indices into the planes, sorted along the normal (row × column)
    affine: Affine  # 4×4, (k, j, i, 1) → LPS mm
    slice_spacing_mm: float  # between slice centres
    pixel_spacing_mm: tuple[float, float]  # between rows, between columns
    extent_mm: tuple[float, float, float]  # field of view along (k, j, i), outer edge to outer edge


def stack(planes: Sequence[FrameGeometry], *, min_slices: int = 2) -> Stack:
    """Return the regular stack that the planes form.

    Raises StudyUnsuitable with one sentence when they form none (PS3.3 C.7.6.2.1.1).
    """
    _check_each(planes)
    _check_alike(planes)
    if len(planes) < max(2, min_slices):
        raise StudyUnsuitable(f"{_images(len(planes))}, at least {max(2, min_slices)} slices are needed")
    row, column = _axes(planes[0])
    normal = np.cross(row, column)
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    _check_places(planes, along[order])
    _check_steps(np.diff(along[order]))
    step = _step(positions[order], normal)
    return _build(planes, order, positions[order[0]], (step, column, row))


def over_time(planes: Sequence[FrameGeometry], *, min_slices: int = 2, min_volumes: int = 1) -> tuple[Stack, ...]:
    """Return one stack a moment, in the order of time; `order` counts into `planes`.

    The images at each place are sorted by trigger time or temporal position, and the n-th of each place form the n-th
    volume, because breath-holds differ in their trigger times. Raises StudyUnsuitable where places differ in number.
    """
    _check_each(planes)
    _check_alike(planes)
    row, column = _axes(planes[0])
    along = np.array([plane.position for plane in planes], dtype=np.float64) @ np.cross(row, column)
    moments = [_in_time(planes, place) for place in _places(along)]
    counts = {len(moment) for moment in moments}
    if len(counts) > 1:
        raise StudyUnsuitable(f"the places of the series hold {min(counts)} to {max(counts)} images over time")
    if counts.pop() < min_volumes:
        raise StudyUnsuitable(f"{len(moments[0])} volumes over time, at least {min_volumes} are needed")
    stacks = []
    for volume in zip(*moments, strict=True):
        found = stack([planes[n] for n in volume], min_slices=min_slices)
        stacks.append(replace(found, order=tuple(int(volume[n]) for n in found.order)))
    return tuple(stacks)


def _places(along: Points) -> list[npt.NDArray[np.int64]]:
    """Return the indices of the planes at each place along the normal."""
    order = np.argsort(along, kind="stable")
    ends = np.flatnonzero(np.diff(along[order]) > SAME_PLACE_MM) + 1
    return np.split(order, ends)


def _in_time(planes: Sequence[FrameGeometry], place: npt.NDArray[np.int64]) -> list[int]:
    """Return the planes of one place in the order of time."""
    if len(place) == 1:
        return [int(place[0])]
    times = [_moment(planes[n]) for n in place]
    if len(set(times)) < len(times):
        raise StudyUnsuitable("several images lie at one place at one time")
    return [int(n) for _, n in sorted(zip(times, place, strict=True))]


def _moment(plane: FrameGeometry) -> float:
    """Return trigger time or temporal position as a number."""
    try:
        value = float(plane.temporal_position)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StudyUnsuitable("several images lie at one place, and they do not say when they were taken")
    return value


def _build(
    planes: Sequence[FrameGeometry], order: npt.NDArray[np.int64], origin: Points, axes: tuple[Points, ...]
) -> Stack:
    between_rows, between_columns = _spacing(planes[0])
    step, column, row = axes
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = step, column * between_rows, row * between_columns
    affine[:3, 3] = origin
    slice_spacing = float(np.linalg.norm(step))
    extent = (
        slice_spacing * len(planes),
        between_rows * planes[0].rows,
        between_columns * planes[0].columns,
    )
    return Stack(tuple(int(n) for n in order), affine, slice_spacing, (between_rows, between_columns), extent)


def _check_each(planes: Sequence[FrameGeometry]) -> None:
    """Raise unless every plane by itself has a position, an orientation, a spacing and a size."""
    if not planes:
        raise StudyUnsuitable("the series holds no image")
    reasons = Counter(reason for plane in planes if (reason := _defect(plane)))
    if reasons:
        reason, count = reasons.most_common(1)[0]
        raise StudyUnsuitable(f"{_images(count)} of {len(planes)} cannot be placed in the patient: {reason}")


def _defect(plane: FrameGeometry) -> str:
    """Return why this plane cannot be placed, or nothing."""
    if plane.problem:
        return plane.problem
    if plane.position is None or plane.orientation is None:
        return "no position or orientation"
    if plane.pixel_spacing is None:
        return "no pixel spacing"
    if not all(math.isfinite(value) for value in (*plane.position, *plane.orientation)):
        return "position or orientation is not a number"
    if not all(math.isfinite(value) and value > 0 for value in plane.pixel_spacing):
        return "pixel spacing is not a positive number"
    if plane.rows < 1 or plane.columns < 1:
        return "no rows or columns"
    return "" if _orthonormal(plane.orientation) else "row and column directions are not at right angles"


def _orthonormal(orientation: tuple[float, ...]) -> bool:
    if len(orientation) != 6:
        return False
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    errors = (row @ row - 1, column @ column - 1, row @ column)
    return max(abs(float(error)) for error in errors) <= ORIENTATION_TOLERANCE


def _check_alike(planes: Sequence[FrameGeometry]) -> None:
    """Raise unless all planes have the size, spacing and orientation of most of them."""
    sizes = Counter((plane.rows, plane.columns) for plane in planes)
    if len(sizes) > 1:
        listed = ", ".join(f"{count} of {rows}×{columns}" for (rows, columns), count in sizes.most_common(3))
        raise StudyUnsuitable(f"images of {len(sizes)} sizes in one series ({listed})")
    turned = _unlike([plane.orientation or () for plane in planes], ORIENTATION_TOLERANCE)
    if turned:
        raise StudyUnsuitable(f"{_images(turned)} of {len(planes)} are turned against the others")
    spacings = [_spacing(plane) for plane in planes]
    unlike = _unlike(spacings, PIXEL_SPACING_TOLERANCE * min(spacings[0]))
    if unlike:
        raise StudyUnsuitable(f"{_images(unlike)} of {len(planes)} have another pixel spacing than the rest")


def _unlike(rows: Sequence[Sequence[float]], tolerance: float) -> int:
    """Return how many rows differ from the median row by more than the tolerance in any number."""
    values = np.array(rows, dtype=np.float64)
    return int((np.abs(values - np.median(values, axis=0)) > tolerance).any(axis=1).sum())


def _check_places(planes: Sequence[FrameGeometry], along: Points) -> None:
    """Raise when several images lie at one place; `along` is sorted."""
    places = 1 + int((np.diff(along) > SAME_PLACE_MM).sum())
    if places == len(planes):
        return
    times = len({plane.temporal_position for plane in planes if plane.temporal_position})
    cause = f", {times} temporal positions" if times > 1 else ""
    raise StudyUnsuitable(f"several images lie at one place ({len(planes)} images at {places} places{cause})")


def _check_steps(steps: Points) -> None:
    """Raise when slices are missing or unevenly spaced; `steps` are in mm, along the normal."""
    median = float(np.median(steps))
    gaps = steps[steps > GAP_FACTOR * median]
    if gaps.size:
        missing = int(np.maximum(np.round(gaps / median) - 1, 1).sum())
        what = "1 slice is missing" if missing == 1 else f"{missing} slices are missing"
        widest = float(gaps.max())
        raise StudyUnsuitable(f"{what} (a gap of {widest:.1f} mm where slices are {median:.1f} mm apart)")
    if np.abs(steps - median).max() > max(SPACING_TOLERANCE * median, SPACING_ROUNDING_MM):
        low, high = float(steps.min()), float(steps.max())
        raise StudyUnsuitable(f"slices are not evenly spaced (from {low:.2f} to {high:.2f} mm apart)")


def _step(positions: Points, normal: Points) -> Points:
    """Return the step from slice to slice in mm; raise when it is not along the normal."""
    step: Points = (positions[-1] - positions[0]) / (len(positions) - 1)
    cosine = float(step @ normal / np.linalg.norm(step))
    tilt = math.degrees(math.acos(min(1.0, cosine)))
    if tilt > TILT_TOLERANCE_DEG:
        raise StudyUnsuitable(f"the slices are sheared by {tilt:.1f}° (gantry tilt)")
    offsets = positions - positions[0]
    sideways = offsets - np.outer(offsets @ normal, normal)
    shifted = int((np.linalg.norm(sideways, axis=1) > _allowed_shift(offsets @ normal)).sum())
    if shifted:
        raise StudyUnsuitable(f"{_images(shifted)} of {len(positions)} are shifted sideways")
    return normal * (step @ normal)


def _allowed_shift(along: Points) -> Points:
    """Return the sideways shift in mm that rounding and the allowed tilt explain."""
    return SHIFT_TOLERANCE_MM + np.abs(along) * math.tan(math.radians(TILT_TOLERANCE_DEG))


def _axes(plane: FrameGeometry) -> tuple[Points, Points]:
    """Return unit row and column directions at exactly right angles."""
    cosines = np.array(plane.orientation, dtype=np.float64)
    row = cosines[:3] / np.linalg.norm(cosines[:3])
    column = cosines[3:] - row * (row @ cosines[3:])
    return row, column / np.linalg.norm(column)


def _spacing(plane: FrameGeometry) -> tuple[float, float]:
    return plane.pixel_spacing or (math.nan, math.nan)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"

"""From the source grid to the network's grid and back. It must never touch a file or change a Volume.

Source arrays are (k, j, i) of a Volume; the network's are turned by `orient`. Resampling is done in the source's
axis order, turning after it on the smaller array: the half-pixel rule treats each axis alike, so both orders
give the same numbers. All arithmetic on voxels is float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from appliance.errors import ResultRejected, StudyUnsuitable
from appliance.volume import Affine, Volume
from models.declaration import Clip, ClipPercentile, Orient, Preprocess, Resample, Scale

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]

# letter of a direction → unit vector in LPS
DIRECTIONS = {
    "L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1),
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """How to turn a (k, j, i) array: result axis n is source axis order[n], reversed where flipped[n]."""

    order: Shape
    flipped: tuple[bool, bool, bool]

    def apply(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return a view of the last three axes of `array`, turned."""
        turned = np.moveaxis(array, [axis - 3 for axis in self.order], [-3, -2, -1])
        return np.asarray(turned[self.reversal()])

    def reversal(self) -> tuple[Any, ...]:
        """Return the index that reverses the flipped ones of the last three axes."""
        return (..., *(slice(None, None, -1 if flip else 1) for flip in self.flipped))

    def undo(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return a view of the last three axes of `array`, turned back."""
        straight = array[self.reversal()]
        return np.moveaxis(straight, [-3, -2, -1], [axis - 3 for axis in self.order])


@dataclass(frozen=True)
class Grid:
    """The network's grid over one volume: the turn, and its size in the source's axis order."""

    turn: Turn
    source: Shape
    size: Shape  # before turning


def turn_towards(affine: Affine, axcodes: str) -> Turn:
    """Return the turn after which axes run closest to `axcodes`; `affine` maps (k, j, i) to LPS mm."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    wanted = np.array([DIRECTIONS[letter] for letter in axcodes], dtype=np.float64)
    cosines = wanted @ columns  # (wanted axis, source axis)
    orders = itertools.permutations(range(3))
    a, b, c = max(orders, key=lambda order: sum(abs(cosines[n, axis]) for n, axis in enumerate(order)))
    return Turn((a, b, c), (bool(cosines[0, a] < 0), bool(cosines[1, b] < 0), bool(cosines[2, c] < 0)))


def network_grid(volume: Volume, orient: Orient, resample: Resample) -> Grid:
    """Return the network's grid: `spacing_mm` along the turned axes, same outer faces (half-pixel rule)."""
    turn = turn_towards(volume.affine, orient.axcodes)
    spacing = dict(zip(turn.order, resample.spacing_mm, strict=True))
    size = [
        max(1, round(count * step / spacing[axis]))
        for axis, (count, step) in enumerate(zip(volume.shape, volume.spacing_mm, strict=True))
    ]
    return Grid(turn, volume.shape, (size[0], size[1], size[2]))


def prepared(volume: Volume, steps: Sequence[Preprocess]) -> tuple[Floats, Grid]:
    """Return the network's input (x, y, z) float32 after all `steps`, and its grid.

    Raises StudyUnsuitable where the image holds no picture: not finite, or the same value everywhere.
    """
    orient, resample = steps[0], steps[1]
    assert isinstance(orient, Orient)  # Declaration checks the order
    assert isinstance(resample, Resample)
    grid = network_grid(volume, orient, resample)
    image = interpolated(np.ascontiguousarray(volume.voxels, dtype=np.float32), grid.size)
    if not np.isfinite(image).all():
        raise StudyUnsuitable("the image holds values that are not finite numbers")
    for step in steps[2:]:
        image = normalised(image, step)
    return np.ascontiguousarray(grid.turn.apply(image), dtype=np.float32), grid


def interpolated(array: Floats, size: Shape) -> Floats:
    """Return `array` (k, j, i) on a grid of `size` with the same outer faces, linearly interpolated."""
    if array.shape == size:
        return array
    tensor = torch.from_numpy(array)[None, None]
    result: Floats = functional.interpolate(tensor, size=size, mode="trilinear", align_corners=False)[0, 0].numpy()
    return result


def normalised(image: Floats, step: Preprocess) -> Floats:
    """Return `image` after one step that changes values only."""
    if isinstance(step, ClipPercentile):
        low, high = np.percentile(image, [step.lower, step.upper])
        return np.asarray(np.clip(image, np.float32(low), np.float32(high)), np.float32)
    if isinstance(step, Clip):
        return np.asarray(np.clip(image, step.lower, step.upper), np.float32)
    if isinstance(step, Scale):
        return scaled(image, step)
    raise TypeError(f"{step.op} does not change values")


def scaled(image: Floats, step: Scale) -> Floats:
    """Return `image` with its smallest and largest value mapped to those of `step`."""
    low, high = image.min(), image.max()
    if not high > low:
        raise StudyUnsuitable("the image has the same value everywhere")
    factor = np.float32((step.highest - step.lowest) / (float(high) - float(low)))
    return np.asarray((image - low) * factor + np.float32(step.lowest), np.float32)


def labels_on_source(logits: Floats, grid: Grid) -> Labels:
    """Return the label map (k, j, i) uint8 on the source grid from logits (classes, x, y, z).

    Each class is interpolated linearly and the largest wins; of equals, the lowest number. Only the box is
    computed that another class than background reaches: where background is largest at all corners of a cell,
    it is largest everywhere inside, so the answer is exact. Two classes need only their difference.
    """
    straight = np.ascontiguousarray(grid.turn.undo(logits), np.float32)
    labels = np.zeros(grid.source, np.uint8)
    reached = (straight[1:] > straight[0]).any(0)
    if not reached.any():
        return labels
    axes = [reach_of(reached, axis, grid.source[axis]) for axis in range(3)]
    rows = tuple(axis.rows for axis in axes)
    inside = straight[(slice(None), *(axis.columns for axis in axes))]
    weights = [axis.weights for axis in axes]
    if len(inside) == 2:
        labels[rows] = spread(inside[1] - inside[0], weights) > 0
    else:
        labels[rows] = largest(spread(inside[0], weights), inside[1:], weights)
    return labels


@dataclass(frozen=True)
class Reach:
    """Along one axis: which source voxels may not be background, and from which network voxels they follow."""

    rows: slice  # of the source
    columns: slice  # of the network's grid
    weights: Floats  # (rows, columns)


def reach_of(reached: npt.NDArray[np.bool_], axis: int, source: int) -> Reach:
    """Return the reach along `axis` of the network voxels `reached` (k, j, i), on `source` voxels."""
    others = tuple(other for other in range(3) if other != axis)
    weights = linear_weights(source, reached.shape[axis])
    rows = np.flatnonzero(weights[:, reached.any(axis=others)].any(axis=1))
    kept = slice(int(rows[0]), int(rows[-1]) + 1)
    used = np.flatnonzero(weights[kept].any(axis=0))
    columns = slice(int(used[0]), int(used[-1]) + 1)
    return Reach(kept, columns, np.ascontiguousarray(weights[kept, columns]))


def linear_weights(source: int, size: int) -> Floats:
    """Return the matrix (source, size) that interpolates linearly along one axis, outer faces together."""
    place = np.clip((np.arange(source) + 0.5) * (size / source) - 0.5, 0, size - 1)
    lower = np.minimum(place.astype(np.int64), max(0, size - 2))
    weights = np.zeros((source, size), np.float32)
    weights[np.arange(source), lower] = 1 - (place - lower)
    if size > 1:
        weights[np.arange(source), lower + 1] = place - lower
    return weights


def spread(array: Floats, weights: Sequence[Floats]) -> Floats:
    """Return `array` (k, j, i) interpolated by one matrix an axis: three products, far cheaper than gathering."""
    k, j, i = weights
    first = (k @ array.reshape(len(array), -1)).reshape(len(k), *array.shape[1:])
    return np.asarray(np.matmul(j, first) @ i.T, np.float32)


def largest(best: Floats, others: Floats, weights: Sequence[Floats]) -> Labels:
    """Return the number of the largest class, `best` being class 0; a running maximum, never all at once."""
    labels = np.zeros(best.shape, np.uint8)
    for number, one in enumerate(others, start=1):
        value = spread(one, weights)
        labels[value > best] = number
        np.maximum(best, value, out=best)
    return labels


def require_finite(logits: Floats) -> None:
    """Raise ResultRejected if the network answered with NaN or infinity."""
    if not np.isfinite(logits).all():
        raise ResultRejected("the network's output is not finite (NaN or infinity); no result is made of it")

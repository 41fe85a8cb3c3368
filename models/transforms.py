"""From the source grid to the network's grid and back, on the engine's device. It must never touch a file or a Volume.

Source arrays are (k, j, i) of a Volume; the network's are turned by `orient`. Resampling is done in the source's
axis order, turning after it on the smaller array: the half-pixel rule treats each axis alike, so both orders
give the same numbers. All arithmetic on voxels is float32; only uint8 labels come back from a device.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from appliance.errors import ResultRejected, StudyUnsuitable
from appliance.volume import Affine, Volume
from models.operations import CropForeground, Orient, Preprocess, Resample, Resize
from models.reading import Labels
from models.values import changed

Floats = npt.NDArray[np.float32]
Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]
CPU = torch.device("cpu")
SAME_MM = 1e-4  # entries of two affines that differ by less are the same

# letter of a direction → unit vector in LPS
DIRECTIONS = {
    "L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1),
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """How to turn a (k, j, i) array: result axis n is source axis order[n], reversed where flipped[n]."""

    order: Shape
    flipped: tuple[bool, bool, bool]

    def apply(self, array: Tensor) -> Tensor:
        """Return the last three axes of `array`, turned."""
        turned = torch.movedim(array, [axis - 3 for axis in self.order], [-3, -2, -1])
        return torch.flip(turned, self.reversed())

    def reversed(self) -> list[int]:
        """Return which of the last three axes are reversed, after the order was changed."""
        return [axis - 3 for axis, flip in enumerate(self.flipped) if flip]

    def undo(self, array: Tensor) -> Tensor:
        """Return the last three axes of `array`, turned back."""
        straight = torch.flip(array, self.reversed())
        return torch.movedim(straight, [-3, -2, -1], [axis - 3 for axis in self.order])


AS_ACQUIRED = Turn((2, 1, 0), (False, False, False))


@dataclass(frozen=True)
class Grid:
    """The network's grid over one volume: which part of it, the turn, and the size in the source's axis order."""

    turn: Turn
    source: Shape  # the whole source
    box: Box  # the part of it that the network sees
    size: Shape  # of the network's grid over that part, before turning

    @property
    def inside(self) -> Shape:
        """Number of source voxels in the box."""
        k, j, i = (one.stop - one.start for one in self.box)
        return k, j, i


def turn_towards(affine: Affine, axcodes: str) -> Turn:
    """Return the turn after which axes run closest to `axcodes`; `affine` maps (k, j, i) to LPS mm."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    wanted = np.array([DIRECTIONS[letter] for letter in axcodes], dtype=np.float64)
    cosines = wanted @ columns  # (wanted axis, source axis)
    orders = itertools.permutations(range(3))
    a, b, c = max(orders, key=lambda order: sum(abs(cosines[n, axis]) for n, axis in enumerate(order)))
    return Turn((a, b, c), (bool(cosines[0, a] < 0), bool(cosines[1, b] < 0), bool(cosines[2, c] < 0)))


def network_grid(volume: Volume, steps: Sequence[Preprocess], box: Box | None = None) -> Grid:
    """Return the network's grid over `box` of the volume, or what `crop_foreground` leaves of it."""
    orient = steps[0]
    assert isinstance(orient, Orient)  # Declaration checks the order
    turn = AS_ACQUIRED if orient.axcodes == "acquired" else turn_towards(volume.affine, orient.axcodes)
    box = box or tuple(slice(0, size) for size in volume.shape)  # type: ignore[assignment]
    assert box is not None
    for step in steps:
        if isinstance(step, CropForeground):
            box = foreground(volume, box, step)
    inside = tuple(one.stop - one.start for one in box)
    size = list(inside)
    for step in steps:
        if isinstance(step, Resample):
            wanted = zip(turn.order, step.spacing_mm, strict=True)
            for axis, spacing in wanted:
                extent = inside[axis] * volume.spacing_mm[axis]
                size[axis] = max(1, round(extent / spacing)) if spacing else inside[axis]
        if isinstance(step, Resize):
            for axis, count in zip(turn.order, step.size, strict=True):
                size[axis] = count or inside[axis]
    return Grid(turn, volume.shape, box, (size[0], size[1], size[2]))


def foreground(volume: Volume, box: Box, step: CropForeground) -> Box:
    """Return the part of `box` that holds all voxels above the threshold, and the margin around them."""
    above = np.asarray(volume.voxels[box]) > step.threshold
    if not above.any():
        raise StudyUnsuitable(f"the image has no voxel above {step.threshold:g}")
    sides = []
    for axis, spacing in enumerate(volume.spacing_mm):
        hit = np.flatnonzero(above.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = round(step.margin_mm / spacing)
        first, last = int(hit[0]) - margin, int(hit[-1]) + 1 + margin
        start = box[axis].start
        sides.append(slice(start + max(0, first), min(box[axis].stop, start + last)))
    return sides[0], sides[1], sides[2]


def prepared(
    volumes: Sequence[Volume], steps: Sequence[Preprocess], device: torch.device = CPU, box: Box | None = None
) -> tuple[Tensor, Grid]:
    """Return the network's input (channels, x, y, z) float32 after all `steps`, and its grid.

    The first volume gives the grid; the others are brought onto it in patient space. `box`: the part of the first
    volume to read. Raises StudyUnsuitable where an image holds no picture: not finite, or the same value everywhere.
    """
    grid = network_grid(volumes[0], steps, box)
    first = interpolated(on_device(volumes[0].voxels[grid.box], device), grid.size)
    others = [onto(one, volumes[0], grid, device) for one in volumes[1:]]
    image = torch.stack([first, *others])
    if not torch.isfinite(image).all():
        raise StudyUnsuitable("the image holds values that are not finite numbers")
    image = grid.turn.apply(image).contiguous()
    for step in steps:
        image = changed(image, step)
    return image, grid


def on_device(voxels: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return voxels as float32 on `device`; they travel in their own type, which is often half as wide."""
    return torch.from_numpy(np.ascontiguousarray(voxels)).to(device).to(torch.float32)


def interpolated(array: Tensor, size: Shape) -> Tensor:
    """Return `array` (k, j, i) on a grid of `size` with the same outer faces, linearly interpolated."""
    if tuple(array.shape) == size:
        return array
    return functional.interpolate(array[None, None], size=size, mode="trilinear", align_corners=False)[0, 0]


def onto(volume: Volume, reference: Volume, grid: Grid, device: torch.device) -> Tensor:
    """Return `volume` (k, j, i) at the voxel centres of the network's grid over `reference`, linearly interpolated.

    Where the volume does not reach, its lowest value stands. On the very same source grid it goes the way of the
    first volume, so that zeros around a stripped head stay zeros.
    """
    if volume.shape == reference.shape and np.allclose(volume.affine, reference.affine, atol=SAME_MM):
        return interpolated(on_device(volume.voxels[grid.box], device), grid.size)
    inside = zip(grid.box, grid.inside, grid.size, strict=True)
    step = [count / size for _, count, size in inside]
    first = [one.start + (stride - 1) / 2 for one, stride in zip(grid.box, step, strict=True)]
    to_reference = np.diag([*step, 1.0])
    to_reference[:3, 3] = first
    place = np.linalg.inv(volume.affine) @ reference.affine @ to_reference  # network index → index of `volume`
    return sampled(on_device(volume.voxels, device), torch.tensor(place, dtype=torch.float64), grid.size)


def sampled(voxels: Tensor, place: Tensor, size: Shape) -> Tensor:
    """Return `voxels` (k, j, i) at `place` @ index of a grid of `size`, linearly interpolated, its lowest beyond them.

    One slice at a time: the places of all voxels at once would take many times the room of the voxels.
    """
    axes = [torch.arange(count, dtype=torch.float64) for count in size]
    first = torch.stack(torch.meshgrid(axes[0][:1], *axes[1:], indexing="ij"), -1) @ place[:3, :3].T + place[:3, 3]
    last = torch.tensor([count - 1 for count in voxels.shape], dtype=torch.float64)
    found = torch.empty(size, device=voxels.device)
    lowest = voxels.min()
    for k in range(size[0]):
        where = first + k * place[:3, 0]
        outside = ((where < -0.5) | (where > last + 0.5)).any(-1)[0].to(voxels.device)
        share = (where / last.clamp(min=1) * 2 - 1).flip(-1).to(torch.float32)  # grid_sample wants (i, j, k)
        plane = functional.grid_sample(
            voxels[None, None], share[None].to(voxels.device), padding_mode="border", align_corners=True
        )
        found[k] = torch.where(outside, lowest, plane[0, 0, 0])
    return found


def labels_on_source(logits: Tensor, grid: Grid) -> Labels:
    """Return the label map (k, j, i) uint8 on the source grid from logits (classes, x, y, z), the largest wins.

    Each class is interpolated linearly; of equals, the lowest number. Only the box is computed that another class
    than background reaches: where background is largest at all corners of a cell, it is largest everywhere inside, so
    the answer is exact. Two classes need only their difference.
    """
    straight = grid.turn.undo(logits)
    reach = reaches((straight[1:] > straight[0]).any(0), grid)
    if reach is None:
        return np.zeros(grid.source, np.uint8)
    inside = straight[(slice(None), *(axis.columns for axis in reach))]
    weights = [axis.weights for axis in reach]
    if len(inside) == 2:
        return pasted(spread(inside[1] - inside[0], weights) > 0, reach, grid)
    return pasted(largest(spread(inside[0], weights), inside[1:], weights), reach, grid)


def regions_on_source(logits: Tensor, grid: Grid, least: float) -> Labels:
    """Return the label map (k, j, i) of logits (regions, x, y, z): the last region above `least`, counted from 1."""
    straight = grid.turn.undo(logits)
    reach = reaches((straight > least).any(0), grid)
    if reach is None:
        return np.zeros(grid.source, np.uint8)
    weights = [axis.weights for axis in reach]
    inside = straight[(slice(None), *(axis.columns for axis in reach))]
    labels = torch.zeros([len(axis) for axis in weights], dtype=torch.uint8, device=logits.device)
    for number, one in enumerate(inside, start=1):
        labels[spread(one, weights) > least] = number
    return pasted(labels, reach, grid)


def nearest_on_source(labels: Tensor, grid: Grid) -> Labels:
    """Return labels (x, y, z) on the source grid (k, j, i), each voxel taking the nearest."""
    straight = grid.turn.undo(labels)[None, None].to(torch.float32)
    near = functional.interpolate(straight, size=grid.inside, mode="nearest-exact")[0, 0]
    whole = np.zeros(grid.source, np.uint8)
    whole[grid.box] = near.to(torch.uint8).cpu().numpy()
    return whole


@dataclass(frozen=True)
class Reach:
    """Along one axis: which voxels of the box may not be background, and from which network voxels they follow."""

    rows: slice  # of the box
    columns: slice  # of the network's grid
    weights: Tensor  # (rows, columns)


def reaches(reached: Tensor, grid: Grid) -> tuple[Reach, Reach, Reach] | None:
    """Return the reach along each axis of the network voxels `reached` (k, j, i); None if there are none."""
    if not reached.any():
        return None
    k, j, i = (reach_of(reached, axis, grid.inside[axis]) for axis in range(3))
    return k, j, i


def reach_of(reached: Tensor, axis: int, source: int) -> Reach:
    """Return the reach along `axis` of the network voxels `reached` (k, j, i), on `source` voxels."""
    hit = torch.movedim(reached, axis, 0).reshape(reached.shape[axis], -1).any(1)
    weights = linear_weights(source, reached.shape[axis])
    rows = np.flatnonzero(weights[:, hit.cpu().numpy()].any(axis=1))
    kept = slice(int(rows[0]), int(rows[-1]) + 1)
    used = np.flatnonzero(weights[kept].any(axis=0))
    columns = slice(int(used[0]), int(used[-1]) + 1)
    return Reach(kept, columns, torch.from_numpy(np.ascontiguousarray(weights[kept, columns])).to(reached.device))


def linear_weights(source: int, size: int) -> Floats:
    """Return the matrix (source, size) that interpolates linearly along one axis, outer faces together."""
    place = np.clip((np.arange(source) + 0.5) * (size / source) - 0.5, 0, size - 1)
    lower = np.minimum(place.astype(np.int64), max(0, size - 2))
    weights = np.zeros((source, size), np.float32)
    weights[np.arange(source), lower] = 1 - (place - lower)
    if size > 1:
        weights[np.arange(source), lower + 1] = place - lower
    return weights


def spread(array: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return `array` (k, j, i) interpolated by one matrix an axis: three products, far cheaper than gathering."""
    k, j, i = weights
    first = (k @ array.reshape(len(array), -1)).reshape(len(k), *array.shape[1:])
    return torch.matmul(j, first) @ i.T


def largest(best: Tensor, others: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return the number of the largest class, `best` being class 0; a running maximum, never all at once."""
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for number, one in enumerate(others, start=1):
        value = spread(one, weights)
        labels[value > best] = number
        torch.maximum(best, value, out=best)
    return labels


def pasted(found: Tensor, reach: Sequence[Reach], grid: Grid) -> Labels:
    """Return the source grid (k, j, i) uint8 with `found` where it belongs, zero elsewhere."""
    whole = np.zeros(grid.source, np.uint8)
    rows = (
        slice(box.start + one.rows.start, box.start + one.rows.stop) for box, one in zip(grid.box, reach, strict=True)
    )
    whole[tuple(rows)] = found.to(torch.uint8).cpu().numpy()
    return whole


def require_finite(answers: Tensor) -> None:
    """Raise ResultRejected if the network answered with NaN or infinity."""
    if not torch.isfinite(answers).all():
        raise ResultRejected("the network's output is not finite (NaN or infinity); no result is made of it")

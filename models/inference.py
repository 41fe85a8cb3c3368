"""Volume → answer: the network moved over the prepared image, on the engine's device.

It must never let an answer out that is not finite, and never decide anything that a package does not declare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from appliance.volume import Volume
from models.engines import Engine, OutOfMemory
from models.operations import Inference, Slices, SlidingWindow
from models.package import Package
from models.transforms import Box, Grid, prepared, require_finite

Progress = Callable[[float], None]  # called with the share that is done, 0…1
Place = tuple[slice, slice, slice]

SMALLEST_WEIGHT = 1e-3  # of a window's rim; the middle has about 1
SIGMA = 0.125  # of the Gaussian weight, as a share of the window


def run(
    volumes: Sequence[Volume],
    package: Package,
    engine: Engine,
    progress: Progress | None = None,
    box: Box | None = None,
) -> tuple[Tensor, Grid]:
    """Return the network's answer for one volume of each input, and the grid it stands on.

    A window's answer with axes is logits (channels, x, y, z); a classifier's or regression's is (answers, channels),
    one row for the volume or for each slice. Raises StudyUnsuitable for an image without a picture, ResultRejected
    for numbers that are not finite, EngineUnavailable where the engine cannot.
    """
    declared = package.manifest
    image, grid = prepared(volumes, declared.preprocess, engine.device, box)
    if declared.outputs.kind in ("classification", "regression"):
        answer = rows_of(image, engine, declared.inference)
    else:
        answer = sliding_window(image, engine, as_windows(declared.inference), progress)
    require_finite(answer)
    return answer, grid


def as_windows(plan: Inference) -> SlidingWindow:
    """Return the plan as windows: the whole volume is one window, a slice a window of one voxel's height."""
    if isinstance(plan, SlidingWindow):
        return plan
    roi = (*plan.roi, 1) if isinstance(plan, Slices) else plan.roi
    overlap, blend = (plan.overlap, plan.blend) if isinstance(plan, Slices) else (0.0, "constant")
    return SlidingWindow(mode="sliding_window", roi=roi, overlap=overlap, blend=blend, batch=plan.batch)


def rows_of(image: Tensor, engine: Engine, plan: Inference) -> Tensor:
    """Return (answers, channels) of an image (channels, x, y, z): of the whole volume, or the middle of every slice."""
    if not isinstance(plan, Slices):
        return Batches(engine, plan.batch).run([image])
    wide = centred(image, (*plan.roi, image.shape[-1]))
    slices = [wide[..., n] for n in range(wide.shape[-1])]
    return Batches(engine, plan.batch).run(slices)


def centred(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the middle of `image` (channels, x, y, z) in `size`, padded with its lowest value where it is smaller."""
    padded, _ = pad_to(image, size)
    starts = [(have - want) // 2 for have, want in zip(padded.shape[1:], size, strict=True)]
    return padded[(slice(None), *(slice(at, at + want) for at, want in zip(starts, size, strict=True)))]


class Batches:
    """Runs windows in batches, and in smaller ones once a batch did not fit into memory."""

    def __init__(self, engine: Engine, size: int) -> None:
        self.engine = engine
        self.size = size

    def run(self, windows: Sequence[Tensor]) -> Tensor:
        """Return the answers of all `windows` (channels, …) in order, stacked."""
        answers = []
        done = 0
        while done < len(windows):
            several = windows[done : done + self.size]
            try:
                answers.append(self.engine.run(torch.stack(list(several))))
            except OutOfMemory:
                if self.size == 1:
                    raise
                self.size = max(1, self.size // 2)
                continue
            done += len(several)
        return torch.cat(answers)


def sliding_window(image: Tensor, engine: Engine, plan: SlidingWindow, progress: Progress | None = None) -> Tensor:
    """Return blended logits (classes, x, y, z) of `image` (channels, x, y, z).

    Windows as MONAI places them: every int(roi × (1 − overlap)) voxels, the last one shifted back to the edge;
    an image smaller than the window is padded with its lowest value on both sides. A window one voxel high is a slice.
    """
    padded, inside = pad_to(image, plan.roi)
    weight = window_weight(plan, image.device)
    places = list(window_places(padded.shape[1:], plan))
    total = torch.zeros(padded.shape[1:], device=image.device)
    blended: Tensor | None = None
    batches = Batches(engine, plan.batch)
    flat = plan.roi[2] == 1
    first = 0
    while first < len(places):
        several = places[first : first + batches.size]
        windows = [padded[(slice(None), *place)] for place in several]
        answers = batches.run([one[..., 0] for one in windows] if flat else windows)
        answers = answers[..., None] if flat else answers
        if blended is None:
            blended = torch.zeros((answers.shape[1], *padded.shape[1:]), device=image.device)
        for place, answer in zip(several, answers, strict=True):
            blended[(slice(None), *place)].addcmul_(answer, weight)
            total[place] += weight
        first += len(several)
        if progress:
            progress(first / len(places))
    assert blended is not None  # there is always one window
    if len(places) > 1:
        blended /= total
    else:
        blended /= weight
    return blended[(slice(None), *inside)]


def pad_to(image: Tensor, roi: Sequence[int]) -> tuple[Tensor, Place]:
    """Return `image` (channels, x, y, z) padded to `roi` with each channel's lowest value, and where it lies."""
    missing = [max(0, wanted - size) for wanted, size in zip(roi, image.shape[1:], strict=True)]
    before = [lack // 2 for lack in missing]
    inside = [slice(left, left + size) for left, size in zip(before, image.shape[1:], strict=True)]
    a, b, c = inside
    if not any(missing):
        return image, (a, b, c)
    sides = [side for left, lack in zip(before, missing, strict=True) for side in (left, lack - left)]
    reversed_sides = [sides[4], sides[5], sides[2], sides[3], sides[0], sides[1]]
    return torch.stack([functional.pad(one, reversed_sides, value=float(one.min())) for one in image]), (a, b, c)


def window_places(shape: tuple[int, ...], plan: SlidingWindow) -> Iterator[Place]:
    """Yield where each window lies in a volume of `shape`."""
    x, y, z = (starts(size, roi, 0.0 if roi == 1 else plan.overlap) for size, roi in zip(shape, plan.roi, strict=True))
    a, b, c = plan.roi
    for i in x:
        for j in y:
            for k in z:
                yield slice(i, i + a), slice(j, j + b), slice(k, k + c)


def starts(size: int, roi: int, overlap: float) -> list[int]:
    """Return the first voxel of each window along one axis."""
    interval = max(1, int(roi * (1 - overlap)))
    count = 1 if size <= roi else -(-(size - roi) // interval) + 1
    return [min(number * interval, size - roi) for number in range(count)]


def window_weight(plan: SlidingWindow, device: torch.device) -> Tensor:
    """Return the weight (x, y, z) of a window's voxels when windows are blended."""
    if plan.blend == "constant":
        return torch.ones(plan.roi, device=device)
    axes = []
    for size in plan.roi:
        distance = (np.arange(size) - (size - 1) / 2) / (SIGMA * size)
        axes.append(np.exp(-0.5 * distance**2))
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return torch.from_numpy(np.maximum(weight, SMALLEST_WEIGHT).astype(np.float32)).to(device)

"""Volume + package + engine → label map on the source grid. It must never choose an engine or write a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cc3d
import numpy as np

from appliance.volume import Volume
from models.declaration import Inference, LargestComponent, Postprocess, RemoveSmall
from models.engines import Engine
from models.package import Package
from models.transforms import Floats, Labels, Shape, labels_on_source, prepared, require_finite

Progress = Callable[[float], None]  # called with the share that is done, 0…1

SMALLEST_WEIGHT = 1e-3  # of a window's rim; the middle has about 1
SIGMA = 0.125  # of the Gaussian weight, as a share of the window


def segment(volume: Volume, package: Package, engine: Engine, progress: Progress | None = None) -> Labels:
    """Return the label map (k, j, i) uint8 of `volume` on its own grid.

    Raises StudyUnsuitable for an image without a picture, ResultRejected for logits that are not finite.
    """
    declared = package.manifest
    image, grid = prepared(volume, declared.preprocess)
    logits = sliding_window(image, engine, declared.inference, progress)
    require_finite(logits)
    labels = labels_on_source(logits, grid)
    for step in declared.postprocess:
        labels = cleaned(labels, step, volume.voxel_ml)
    return labels


def sliding_window(image: Floats, engine: Engine, plan: Inference, progress: Progress | None = None) -> Floats:
    """Return blended logits (classes, x, y, z) of `image` (x, y, z).

    Windows as MONAI places them: every int(roi × (1 − overlap)) voxels, the last one shifted back to the edge;
    an image smaller than the window is padded with its lowest value on both sides.
    """
    padded, inside = pad_to(image, plan.roi)
    weight = window_weight(plan)
    places = list(window_places(padded.shape, plan))
    total = np.zeros(padded.shape, np.float32)
    blended: Floats | None = None
    for first in range(0, len(places), plan.batch):
        several = places[first : first + plan.batch]
        answers = engine.run(np.stack([padded[place] for place in several])[:, None])
        if blended is None:
            blended = np.zeros((answers.shape[1], *padded.shape), np.float32)
        for place, answer in zip(several, answers, strict=True):
            blended[(slice(None), *place)] += answer * weight
            total[place] += weight
        if progress:
            progress((first + len(several)) / len(places))
    assert blended is not None  # there is always one window
    blended /= total
    return blended[(slice(None), *inside)]


Place = tuple[slice, slice, slice]


def pad_to(image: Floats, roi: Shape) -> tuple[Floats, Place]:
    """Return `image` padded to at least `roi`, and where the image lies in it."""
    missing = [max(0, wanted - size) for wanted, size in zip(roi, image.shape, strict=True)]
    before = [lack // 2 for lack in missing]
    sides = [(left, lack - left) for left, lack in zip(before, missing, strict=True)]
    a, b, c = (slice(left, left + size) for left, size in zip(before, image.shape, strict=True))
    return np.pad(image, sides, constant_values=image.min()), (a, b, c)


def window_places(shape: tuple[int, ...], plan: Inference) -> Iterator[Place]:
    """Yield where each window lies in a volume of `shape`."""
    x, y, z = (starts(size, roi, plan.overlap) for size, roi in zip(shape, plan.roi, strict=True))
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


def window_weight(plan: Inference) -> Floats:
    """Return the weight (x, y, z) of a window's voxels when windows are blended."""
    if plan.blend == "constant":
        return np.ones(plan.roi, np.float32)
    axes = []
    for size in plan.roi:
        distance = (np.arange(size) - (size - 1) / 2) / (SIGMA * size)
        axes.append(np.exp(-0.5 * distance**2))
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return np.asarray(np.maximum(weight, SMALLEST_WEIGHT), np.float32)


def cleaned(labels: Labels, step: Postprocess, voxel_ml: float) -> Labels:
    """Return the label map after one step of postprocessing."""
    if isinstance(step, LargestComponent):
        return keep_largest(labels, step.segments)
    if isinstance(step, RemoveSmall):
        return remove_small(labels, step.segments, step.min_volume_ml / voxel_ml)
    return labels  # to_source_grid is done


def keep_largest(labels: Labels, segments: tuple[int, ...]) -> Labels:
    """Return `labels` without the voxels of `segments` that are not in their largest connected part."""
    mask = np.isin(labels, segments)
    largest = cc3d.largest_k(mask, k=1, connectivity=26) > 0
    return np.where(mask & ~largest, np.uint8(0), labels)


def remove_small(labels: Labels, segments: tuple[int, ...], voxels: float) -> Labels:
    """Return `labels` without connected parts of one of `segments` that have fewer than `voxels` voxels."""
    result = labels.copy()
    for number in segments:
        mask = labels == number
        kept = cc3d.dust(mask, threshold=int(np.ceil(voxels)), connectivity=26)
        result[mask & ~(kept > 0)] = 0
    return result

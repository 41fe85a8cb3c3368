"""The network's answer decided, cleaned, and on the source grid. Arrays in, arrays out; measuring comes after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cc3d
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from appliance.errors import ResultRejected
from appliance.volume import Volume
from models.engines import Engine
from models.inference import Progress, run
from models.operations import Cleaning, FillHoles, LargestComponent, RemoveSmall, ToSourceGrid
from models.outputs import (
    CineSegmentation,
    Classification,
    Detection,
    Outputs,
    Regression,
    Segment,
    Segmentation,
    channels_needed,
)
from models.package import Package
from models.reading import Labels, Reading
from models.transforms import Box, Grid, labels_on_source, nearest_on_source, regions_on_source

Mask = npt.NDArray[np.bool_]
LEAST_SHOWN = 0.05  # a slice where no voxel is as probable as this stays out of a probability map


def read(
    sequence: Sequence[Sequence[Volume]],
    package: Package,
    engine: Engine,
    progress: Progress | None = None,
    *,
    mapped: bool = False,
) -> Reading:
    """Return what `package` says of `sequence`: for each moment, the volumes of its inputs.

    `mapped`: with the probability of the package's mapped segment, where it has one.
    """
    outputs = package.manifest.outputs
    if isinstance(outputs, CineSegmentation):
        maps = []
        for n, volumes in enumerate(sequence):
            answer, grid = run(volumes, package, engine)
            maps.append(label_map(answer, grid, package, volumes[0].voxel_ml))
            if progress:
                progress((n + 1) / len(sequence))
        return Reading(tuple(maps))
    (volumes,) = sequence
    answer, grid = run(volumes, package, engine, progress)
    if isinstance(outputs, Classification):
        return Reading(probabilities=joined(answer, outputs))
    if isinstance(outputs, Regression):
        return Reading(numbers=scaled(answer, outputs))
    labels = label_map(answer, grid, package, volumes[0].voxel_ml)
    segment = package.manifest.mapped_segment if mapped else None
    probability = probability_map(answer, grid, outputs, segment) if segment else None
    if isinstance(outputs, Detection):
        labels, scores = candidates(labels, answer, grid, outputs, volumes[0])
        return Reading((labels,), scores, probability=probability)
    return Reading((labels,), probability=probability)


def read_regions(
    volumes: Sequence[Volume],
    boxes: Mapping[str, Box],
    package: Package,
    engine: Engine,
    progress: Progress | None = None,
) -> Reading:
    """Return the segmentation of named boxes of one volume in one label map; nothing is found outside of them.

    The segments of each box have labels of their own, in the order of the boxes.
    """
    whole = np.zeros(volumes[0].shape, np.uint8)
    segments = len(package.manifest.outputs.segments)  # type: ignore[union-attr]
    for n, box in enumerate(boxes.values()):
        answer, grid = run(volumes, package, engine, None, box)
        found = label_map(answer, grid, package, volumes[0].voxel_ml)
        np.copyto(whole, found + np.uint8(n * segments), where=found > 0)
        if progress:
            progress((n + 1) / len(boxes))
    return Reading((whole,), regions=tuple(boxes))


def label_map(answer: Tensor, grid: Grid, package: Package, voxel_ml: float) -> Labels:
    """Return the decided and cleaned label map (k, j, i) of logits (channels, x, y, z)."""
    declared = package.manifest
    labels = decided(answer, grid, declared.outputs, declared.postprocess[0])  # type: ignore[arg-type]
    for step in declared.postprocess[1:]:
        assert not isinstance(step, ToSourceGrid)  # Declaration checks the order
        labels = cleaned(labels, step, voxel_ml)
    return without_tiny(labels, declared.outputs.segments, voxel_ml)  # type: ignore[union-attr]


def without_tiny(labels: Labels, segments: Sequence[Segment], voxel_ml: float) -> Labels:
    """Return `labels` without the segments that are smaller than their `min_volume_ml`: these are no findings."""
    counts = np.bincount(labels.ravel(order="K"), minlength=len(segments) + 1)
    tiny = [one.number for one in segments if 0 < counts[one.number] * voxel_ml < one.min_volume_ml]
    return np.where(np.isin(labels, tiny), np.uint8(0), labels) if tiny else labels


def decided(answer: Tensor, grid: Grid, outputs: Outputs, step: ToSourceGrid) -> Labels:
    """Return which segment each source voxel belongs to."""
    channels = channels_needed(outputs)
    if len(answer) != channels:
        raise ResultRejected(f"the network answers with {len(answer)} channels, its outputs need {channels}")
    if isinstance(outputs, Segmentation) and outputs.activation == "sigmoid":
        least = logit(outputs.threshold)
        if step.method == "nearest":
            numbers = torch.arange(1, len(answer) + 1, device=answer.device).view(-1, 1, 1, 1)
            return nearest_on_source(((answer > least) * numbers).amax(0), grid)
        return regions_on_source(answer, grid, least)
    if step.method == "nearest":
        return nearest_on_source(answer.argmax(0), grid)
    return labels_on_source(answer, grid)


def logit(probability: float) -> float:
    """Return the logit of a probability; infinite at 0 and 1."""
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))


def joined(answer: Tensor, outputs: Classification) -> tuple[float, ...]:
    """Return the probability of each class from answers (volumes or slices, channels)."""
    if outputs.activation == "sigmoid":
        positive = torch.sigmoid(answer[:, 0])
        rows = torch.stack([1 - positive, positive], 1)
        rows = rows if outputs.positive == 1 else rows.flip(1)
    else:
        rows = torch.softmax(answer, 1)
    if rows.shape[1] != len(outputs.classes):
        raise ResultRejected(
            f"the network answers with {rows.shape[1]} classes, its outputs name {len(outputs.classes)}"
        )
    chosen = rows.mean(0) if outputs.join_slices == "mean" else rows[rows[:, outputs.positive].argmax()]
    return tuple(float(one) for one in chosen)


def scaled(answer: Tensor, outputs: Regression) -> tuple[float, ...]:
    """Return the numbers in their units; ResultRejected for one outside of what it can be."""
    row = answer.mean(0)
    if len(row) != len(outputs.values):
        raise ResultRejected(f"the network answers with {len(row)} numbers, its outputs name {len(outputs.values)}")
    found = []
    for raw, value in zip(row, outputs.values, strict=True):
        number = float(raw) * value.factor + value.offset
        low, high = value.lowest, value.highest
        if (low is not None and number < low) or (high is not None and number > high):
            raise ResultRejected(f"{value.name.meaning} is {number:g} {value.unit.value}, which cannot be")
        found.append(number)
    return tuple(found)


def candidates(
    labels: Labels, answer: Tensor, grid: Grid, outputs: Detection, volume: Volume
) -> tuple[Labels, tuple[float, ...]]:
    """Return the label map with each candidate as a label of its own, the best first, and their scores."""
    plan = outputs.candidates
    probability = probability_on_source(answer, grid, outputs, plan.segment)
    mask = (probability > plan.threshold) | (labels == plan.segment)
    kept = np.where(labels == plan.segment, np.uint8(0), labels)
    parts, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts, count), start=1):
        part = parts[box] == number
        inside = probability[box][part]
        score = float(inside.max() if plan.score == "peak" else inside.mean())
        size_mm = equivalent_diameter(int(part.sum()) * volume.voxel_ml)
        touches = plan.inside is None or touches_segment(labels, box, part, plan.inside)
        fits = plan.min_diameter_mm <= size_mm <= (plan.max_diameter_mm or math.inf)
        if fits and touches and score >= plan.min_score:
            found.append((score, number, box, part))
    best = sorted(found, key=lambda one: (-one[0], one[1]))[: plan.max_count]
    for n, (_, _, box, part) in enumerate(best):
        kept[box][part] = len(outputs.segments) + 1 + n
    return kept, tuple(one[0] for one in best)


def probability_map(answer: Tensor, grid: Grid, outputs: Segmentation | Detection, segment: int) -> Labels:
    """Return the probability (k, j, i) of one segment as uint8, 255 certain; slices that hold next to none are zero."""
    found = np.rint(probability_on_source(answer, grid, outputs, segment) * 255).astype(np.uint8)
    found[found.max(axis=(1, 2)) < LEAST_SHOWN * 255] = 0
    return found


def probability_on_source(
    answer: Tensor, grid: Grid, outputs: Segmentation | Detection, segment: int
) -> npt.NDArray[np.float32]:
    """Return the probability (k, j, i) of one segment, interpolated linearly to the source grid."""
    alone = outputs.activation == "sigmoid"
    probability = torch.sigmoid(answer[segment - 1]) if alone else torch.softmax(answer, 0)[segment]
    straight = grid.turn.undo(probability)[None, None]
    inside = torch.nn.functional.interpolate(straight, size=grid.inside, mode="trilinear", align_corners=False)[0, 0]
    whole = np.zeros(grid.source, np.float32)
    whole[grid.box] = inside.cpu().numpy()
    return whole


def equivalent_diameter(ml: float) -> float:
    """Return the diameter in mm of a sphere of this volume."""
    return float((6000 * ml / math.pi) ** (1 / 3))


def touches_segment(labels: Labels, box: tuple[slice, ...], part: Mask, segment: int) -> bool:
    """Return whether a voxel of `part`, or one beside it, belongs to the segment."""
    wide = tuple(slice(max(0, one.start - 1), one.stop + 1) for one in box)
    around = np.zeros(labels[wide].shape, bool)
    inner = tuple(slice(one.start - outer.start, one.stop - outer.start) for one, outer in zip(box, wide, strict=True))
    around[inner] = part
    return bool((ndimage.binary_dilation(around, np.ones((3, 3, 3), bool)) & (labels[wide] == segment)).any())


def cleaned(labels: Labels, step: Cleaning, voxel_ml: float) -> Labels:
    """Return the label map after one step of cleaning."""
    if isinstance(step, LargestComponent):
        return keep_largest(labels, step.segments)
    if isinstance(step, FillHoles):
        return fill_holes(labels, step.segments)
    assert isinstance(step, RemoveSmall)
    return remove_small(labels, step.segments, step.min_volume_ml / voxel_ml)


def keep_largest(labels: Labels, segments: tuple[int, ...]) -> Labels:
    """Return `labels` without the voxels of `segments` that are not in their largest connected part."""
    mask = np.isin(labels, segments)
    largest = cc3d.largest_k(mask, k=1, connectivity=26) > 0
    return np.where(mask & ~largest, np.uint8(0), labels)


def fill_holes(labels: Labels, segments: tuple[int, ...]) -> Labels:
    """Return `labels` with the background that one of `segments` encloses given to it."""
    result = labels.copy()
    for number in segments:
        box = next(iter(ndimage.find_objects((labels == number).astype(np.uint8))), None)
        if box is not None:
            filled = ndimage.binary_fill_holes(labels[box] == number)
            result[box][filled & (labels[box] == 0)] = number
    return result


def remove_small(labels: Labels, segments: tuple[int, ...], voxels: float) -> Labels:
    """Return `labels` without connected parts of one of `segments` that have fewer than `voxels` voxels."""
    result = labels.copy()
    for number in segments:
        mask = labels == number
        kept = cc3d.dust(mask, threshold=int(np.ceil(voxels)), connectivity=26)
        result[mask & ~(kept > 0)] = 0
    return result

"""Synthetic MR images from label maps: a new contrast, head shape and resolution each time (the SynthSeg idea).

Arrays in, arrays out, every draw from the generator that is given. It must never read a file or a real image.
Axes are (x, y, z) = (right, anterior, superior); lengths are in voxels of the label maps, 2 mm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Tissues:
    """Which label numbers exist, the class each becomes, and how it looks in a T1-weighted image."""

    numbers: tuple[int, ...]  # label numbers, index 0 is background
    classes: tuple[int, ...]  # target class of each
    t1: tuple[tuple[float, float], ...]  # lowest and highest mean intensity of each in a T1-like image
    outside: tuple[bool, ...]  # extracerebral: removed when a head is stripped
    fluid: tuple[bool, ...]  # around the brain: removed in part when a head is stripped
    alike: Mapping[int, int] = field(default_factory=dict)  # index → index whose mean it shares


@dataclass(frozen=True)
class Strengths:
    """How far synthetic images wander; the defaults are those of the shipped recipe."""

    stripped: float = 0.25  # share of samples without extracerebral tissue
    t1_like: float = 0.8  # share with T1-like means; the rest has any contrast
    reach_voxels: float = 32.0  # from the centre of the label map to that of a crop, along each axis
    rotation_deg: float = 14.0
    scaling: float = 0.14
    shear: float = 0.08
    warp_voxels: float = 2.6  # largest standard deviation of the elastic displacement
    bias: float = 0.35
    patchiness: float = 0.7  # of extracerebral tissue
    noise: float = 0.06
    blur_voxels: tuple[float, float] = (0.25, 1.0)
    thick: float = 0.2  # share with thick slices along one axis


def uniform(random: torch.Generator, low: float, high: float) -> float:
    """Return one number between `low` and `high`."""
    return float(torch.rand((), generator=random, device=random.device)) * (high - low) + low


def normal(random: torch.Generator, *shape: int) -> Tensor:
    """Return standard normal numbers of `shape` on the generator's device."""
    return torch.randn(shape, generator=random, device=random.device)


def smooth_field(random: torch.Generator, channels: int, shape: Sequence[int], cells: int) -> Tensor:
    """Return a smooth random field (1, channels, x, y, z) with `cells` control points along each axis."""
    coarse = normal(random, 1, channels, cells, cells, cells)
    return functional.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)


def affine_matrix(random: torch.Generator, strengths: Strengths) -> Tensor:
    """Return a random 3×3 matrix of rotation, scaling, shear and, half of the time, left-right flip."""
    angles = torch.deg2rad(torch.tensor([uniform(random, -1, 1) * strengths.rotation_deg for _ in range(3)]))
    matrix = torch.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3)
        turn[first, first] = turn[second, second] = torch.cos(angle)
        turn[first, second], turn[second, first] = -torch.sin(angle), torch.sin(angle)
        matrix = matrix @ turn
    whole = uniform(random, -0.7, 0.7) * strengths.scaling
    scales = [1 + whole + uniform(random, -0.5, 0.5) * strengths.scaling for _ in range(3)]
    skew = torch.tensor([[uniform(random, -1, 1) * strengths.shear for _ in range(3)] for _ in range(3)])
    matrix = matrix @ torch.diag(torch.tensor(scales)) @ (torch.eye(3) + skew * (1 - torch.eye(3)))
    flip = -1.0 if uniform(random, 0, 1) < 0.5 else 1.0
    return (matrix @ torch.diag(torch.tensor([flip, 1.0, 1.0]))).to(random.device)


def sampling_grid(
    random: torch.Generator, centre: Tensor, crop: Sequence[int], shape: Sequence[int], strengths: Strengths
) -> Tensor:
    """Return where each voxel of a deformed crop lies in the label map, (1, x, y, z, 3) for `grid_sample`."""
    device = random.device
    axes = [torch.arange(size, device=device) - (size - 1) / 2 for size in crop]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).float() @ affine_matrix(random, strengths).T
    for cells in (4, 8):
        size = uniform(random, 0, 1) * strengths.warp_voxels * 4 / cells
        points = points + smooth_field(random, 3, crop, cells)[0].movedim(0, -1) * size
    extent = torch.tensor([float(size) for size in shape], device=device)
    return (((points + centre + 0.5) / extent) * 2 - 1).flip(-1)[None]


def deformed_labels(labels: Tensor, random: torch.Generator, crop: Sequence[int], strengths: Strengths) -> Tensor:
    """Return a deformed crop (x, y, z) of tissue indices around a random place of the head."""
    shape = labels.shape[-3:]
    centre = torch.tensor([(size - 1) / 2 for size in shape], device=random.device)
    reach = torch.tensor(
        [min(strengths.reach_voxels, (size - side) / 2) for size, side in zip(shape, crop, strict=True)]
    )
    spread = torch.tensor([uniform(random, -1, 1) for _ in range(3)]) * reach
    grid = sampling_grid(random, centre + spread.to(random.device), crop, shape, strengths)
    sampled = functional.grid_sample(labels[None, None].float(), grid, mode="nearest", align_corners=False)
    return sampled[0, 0].round().long()


def near_brain(indices: Tensor, tissues: Tissues, reach: int) -> Tensor:
    """Return where a voxel lies within `reach` voxels of brain tissue, as a mask of shape (x, y, z)."""
    device = indices.device
    solid = torch.tensor(tissues.classes, device=device) > 0
    brain = (solid & ~torch.tensor(tissues.fluid, device=device))[indices].float()[None, None]
    return functional.max_pool3d(brain, 2 * reach + 1, stride=1, padding=reach)[0, 0] > 0


def strip(indices: Tensor, tissues: Tissues, random: torch.Generator) -> Tensor:
    """Return the indices without extracerebral tissue, and with all, some or none of the fluid around."""
    outside = torch.tensor(tissues.outside, device=indices.device)
    stripped = torch.where(outside[indices], 0, indices)
    fluid = torch.tensor(tissues.fluid, device=indices.device)[indices]
    choice = uniform(random, 0, 1)
    if choice < 0.35:
        return stripped
    reach = 0 if choice < 0.5 else 1 if choice < 0.8 else 2
    return torch.where(fluid & ~near_brain(indices, tissues, reach), 0, stripped)


def contrast(tissues: Tissues, random: torch.Generator, t1_like: bool) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every tissue's intensity."""
    count = len(tissues.numbers)
    draws = torch.rand(count, generator=random, device=random.device)
    if t1_like:
        low, high = torch.tensor(tissues.t1, device=random.device).T
        means = low + (high - low) * draws
    else:
        means = draws
    for index, other in tissues.alike.items():
        jitter = uniform(random, -0.02, 0.02)
        means[index] = means[other] + jitter
    spread = torch.rand(count, generator=random, device=random.device) * (0.06 if t1_like else 0.1) + 0.005
    if uniform(random, 0, 1) < 0.75 or t1_like:
        means[0], spread[0] = 0.0, 0.0 if uniform(random, 0, 1) < 0.6 else 0.01
    return means, spread


def patchiness(indices: Tensor, tissues: Tissues, random: torch.Generator, strengths: Strengths) -> Tensor:
    """Return a factor (x, y, z) that mottles extracerebral tissue: one label there holds fat, muscle and vessels."""
    outside = torch.tensor(tissues.outside, device=indices.device)[indices]
    mottle = smooth_field(random, 1, indices.shape, 16)[0, 0] * uniform(random, 0, strengths.patchiness)
    return torch.where(outside, torch.exp(mottle), 1.0)


def blurred(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Return `image` (x, y, z) after a Gaussian blur with a standard deviation in voxels for each axis."""
    result = image
    for axis, sigma in enumerate(sigmas):
        reach, size = max(1, int(3 * sigma + 0.5)), image.shape[axis]
        weights = [math.exp(-0.5 * (step / max(sigma, 1e-3)) ** 2) for step in range(-reach, reach + 1)]
        sides = [reach if 2 - side // 2 == axis else 0 for side in range(6)]  # F.pad counts axes from the last
        padded = functional.pad(result, sides)
        shifted = (padded.narrow(axis, step, size) * weight for step, weight in enumerate(weights))
        result = sum(shifted, torch.zeros_like(image)) / sum(weights)
    return result


def with_thick_slices(image: Tensor, axis: int, factor: float) -> Tensor:
    """Return `image` as if it had been taken in slices `factor` voxels thick along `axis`."""
    size = list(image.shape)
    size[axis] = max(4, int(size[axis] / factor))
    coarse = functional.interpolate(image[None, None], size=size, mode="area")
    return functional.interpolate(coarse, size=tuple(image.shape), mode="trilinear", align_corners=False)[0, 0]


def acquired(image: Tensor, random: torch.Generator, strengths: Strengths) -> Tensor:
    """Return `image` with the blur, bias field, slices and noise of a scanner."""
    low, high = strengths.blur_voxels
    sigma = uniform(random, low, high)
    result = blurred(image, [sigma * uniform(random, 0.85, 1.15) for _ in range(3)])
    bias = smooth_field(random, 1, image.shape, 4)[0, 0] * uniform(random, 0, strengths.bias)
    result = result * torch.exp(bias)
    noise = normal(random, *image.shape) * uniform(random, 0, strengths.noise)
    result = result + (noise if uniform(random, 0, 1) < 0.5 else blurred(noise, [0.6] * 3) * 2)
    if uniform(random, 0, 1) < strengths.thick:
        result = with_thick_slices(result, int(uniform(random, 0, 2.999)), uniform(random, 1.2, 3.2))
    return result


def scaled(image: Tensor, random: torch.Generator) -> Tensor:
    """Return `image` clipped and scaled to about 0…1 as the package does it, with a random gamma and gain."""
    values = image[::3, ::3, ::3].flatten()
    low, high = torch.quantile(values, torch.tensor([0.005, 0.995], device=values.device))
    result = ((image - low) / (high - low).clamp(min=1e-4)).clamp(0, 1)
    gamma = float(torch.exp(normal(random) * 0.25))
    return torch.pow(result, gamma) * uniform(random, 0.8, 1.2)


def sample(
    labels: Tensor,
    tissues: Tissues,
    random: torch.Generator,
    crop: Sequence[int],
    strengths: Strengths | None = None,
    t1_like: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a synthetic image (x, y, z) float32 about 0…1 and its classes (x, y, z) int64.

    `labels`: tissue indices (x, y, z) as `tissue_indices` makes them, on the generator's device.
    """
    strengths = strengths or Strengths()
    indices = deformed_labels(labels, random, crop, strengths)
    bare = uniform(random, 0, 1) < strengths.stripped
    if bare:
        indices = strip(indices, tissues, random)
    like = uniform(random, 0, 1) < strengths.t1_like if t1_like is None else t1_like
    means, spread = contrast(tissues, random, like)
    if bare:
        means[0], spread[0] = 0.0, 0.0
    image = means[indices] + spread[indices] * normal(random, *indices.shape)
    if not bare:
        image = image * patchiness(indices, tissues, random, strengths)
    image = acquired(image, random, strengths)
    if bare and uniform(random, 0, 1) < 0.8:
        image = torch.where(indices > 0, image, 0.0)
    target = torch.tensor(tissues.classes, device=indices.device)[indices]
    return scaled(image, random), target


def tissue_indices(numbers: npt.NDArray[np.generic], tissues: Tissues) -> Tensor:
    """Return the label map (x, y, z) of label numbers as indices into `tissues`; ValueError if one is unknown."""
    unknown = set(np.unique(numbers).tolist()) - set(tissues.numbers)
    if unknown:
        raise ValueError(f"label numbers {sorted(unknown)} have no tissue")
    table = np.zeros(max(tissues.numbers) + 1, np.uint8)
    table[list(tissues.numbers)] = np.arange(len(tissues.numbers), dtype=np.uint8)
    return torch.from_numpy(table[numbers.astype(np.int64)])

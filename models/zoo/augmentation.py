"""One image with its labels, moved and lit a little differently each time. Arrays in, arrays out; no file.

Every draw comes from the generator that is given. Axes are (channels, x, y, z) and (x, y, z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.synthesis import Strengths, affine_matrix, normal, smooth_field, uniform


@dataclass(frozen=True)
class Variation:
    """How far a sample may wander."""

    rotation_deg: float = 12.0
    scaling: float = 0.12
    shear: float = 0.05
    shift: float = 0.08  # of the crop's size
    warp: float = 0.02  # standard deviation of the elastic displacement, of the crop's size
    gamma: float = 0.3
    bias: float = 0.2
    noise: float = 0.05
    mirror: bool = True  # left and right are alike


def varied(
    image: Tensor, labels: Tensor, random: torch.Generator, crop: Sequence[int], how: Variation,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return one variant in a window of `crop`, up to a shift at `offset` voxels from the image's middle.

    Outside of the image stands zero, label 0.
    """
    places = sampling_places(labels.shape, random, crop, how, offset)
    moved = functional.grid_sample(image[None], places, align_corners=True)[0]
    target = functional.grid_sample(labels[None, None].float(), places, mode="nearest", align_corners=True)[0, 0]
    return relit(moved, random, how), target.long()


def sampling_places(
    shape: Sequence[int], random: torch.Generator, crop: Sequence[int], how: Variation, offset: Tensor | None = None
) -> Tensor:
    """Return where each voxel of the crop comes from, (1, x, y, z, 3) as grid_sample wants it."""
    moving = Strengths(rotation_deg=how.rotation_deg, scaling=how.scaling, shear=how.shear)
    matrix = affine_matrix(random, moving)
    if not how.mirror and float(torch.linalg.det(matrix)) < 0:
        matrix[:, 0] *= -1
    axes = [torch.arange(size, dtype=torch.float32) - (size - 1) / 2 for size in crop]
    around = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    shift = torch.tensor([uniform(random, -how.shift, how.shift) * size for size in crop])
    warp = smooth_field(random, 3, crop, 4)[0].movedim(0, -1) * (how.warp * min(crop))
    places = around @ matrix.T + shift + warp
    places = places if offset is None else places + offset
    half = torch.tensor([max(1, size - 1) / 2 for size in shape])
    return (places / half).flip(-1)[None]


def relit(image: Tensor, random: torch.Generator, how: Variation) -> Tensor:
    """Return an image of about 0…1 with another gamma, bias field and noise, channel by channel."""
    channels = []
    for one in image:
        gamma = 2.0 ** uniform(random, -how.gamma, how.gamma)
        bias = torch.exp(smooth_field(random, 1, one.shape, 3)[0, 0] * how.bias)
        lit = one.clamp(min=0) ** gamma * bias
        channels.append(lit + normal(random, *one.shape) * uniform(random, 0, how.noise))
    return torch.stack(channels)

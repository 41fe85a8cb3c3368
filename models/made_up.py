"""Made-up images for golden cases and trials: smooth, without a patient, and without a meaning.

They show whether two ways compute the same, never whether a network is any good.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from appliance.volume import Volume
from models.declaration import Declaration
from models.operations import Orient, Preprocess, Resample, ScaleRange, Slices
from models.packaging import window_shape
from models.transforms import Floats
from models.values import changed

COARSE = 12  # voxels of a made-up image to one random number
BRIGHTEST = 1000.0
SOURCE_SPACING_MM = 1.0  # where a package does not resample
FINER = (0.85, 0.85, 1.2)  # spacing of the made-up source, as a share of the network's
LONGER = 1.25  # the made-up source along the network's first axis, as a share of the window
AXIAL = {"L": 2, "R": 2, "P": 1, "A": 1, "S": 0, "I": 0}  # axis (k, j, i) of an axial series that runs along a letter
AXIAL_DIRECTIONS = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])  # columns: k, j, i in LPS


def smooth(shape: Sequence[int], seed: int, low: float, high: float) -> Tensor:
    """Return a smooth random image of `shape` from `low` to `high`, and 0 outside of an ellipsoid within."""
    coarse = [max(2, size // COARSE) if size > 1 else 1 for size in shape]
    noise = torch.rand(1, 1, *coarse, generator=torch.Generator().manual_seed(seed))
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    field = functional.interpolate(noise, size=tuple(shape), mode=mode, align_corners=False)[0, 0]
    lines = [torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1) for size in shape]
    axes = torch.meshgrid(*lines, indexing="ij")
    inside = sum((axis**2 for axis in axes), torch.zeros(())) < 0.9
    return torch.where(inside, low + (high - low) * field, torch.tensor(0.0))


def value_range(steps: Sequence[Preprocess]) -> tuple[float, float]:
    """Return the source values between which a package sees a difference."""
    fixed = next((step for step in steps if isinstance(step, ScaleRange)), None)
    return (fixed.a_min, fixed.a_max) if fixed else (BRIGHTEST / 100, BRIGHTEST)


def golden_image(declared: Declaration) -> Floats:
    """Return one window (channels, axes…) as the network sees it, made up."""
    channels, *axes = window_shape(declared)
    low, high = value_range(declared.preprocess)
    image = torch.stack([smooth(axes, seed, low, high) for seed in range(channels)])
    for step in declared.preprocess:
        image = changed(image, step)
    return image.numpy()


def volumes_of(declared: Declaration) -> list[Volume]:
    """Return one made-up axial volume for each input, of another spacing than the network's where it resamples.

    It is longer than the window along one axis where windows are moved; 2-D packages get one slice.
    """
    orient, *rest = declared.preprocess
    assert isinstance(orient, Orient)  # Declaration checks the order
    resample = next((step for step in rest if isinstance(step, Resample)), None)
    wanted = [one or SOURCE_SPACING_MM for one in resample.spacing_mm] if resample else [SOURCE_SPACING_MM] * 3
    finer = FINER if resample else (1.0, 1.0, 1.0)
    size = [*declared.inference.roi, 1][:3]
    size[0] = round(size[0] * (LONGER if declared.inference.mode != "whole" else 1))
    shape, spacing = [0, 0, 0], [0.0, 0.0, 0.0]
    for letter, count, want, share in zip(orient.axcodes, size, wanted, finer, strict=True):
        shape[AXIAL[letter]] = max(1, round(count / share))
        spacing[AXIAL[letter]] = want * share
    if isinstance(declared.inference, Slices):
        shape[AXIAL[orient.axcodes[2]]] = 1
    affine = np.eye(4)
    affine[:3, :3] = AXIAL_DIRECTIONS * spacing
    low, high = value_range(declared.preprocess)
    return [
        Volume(smooth(shape, 100 + n, low, high).numpy(), affine, (), "1.2.3", "1.2.4")
        for n in range(len(declared.inputs))
    ]

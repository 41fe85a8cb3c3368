"""Does an engine compute what the package says? Its answer on the golden case against the one that is stored.

It must never pass an answer that holds NaN or infinity, and never read a golden case that needs unpickling.
golden/case.npz: `input` uint8 (x, y, z), 255 standing for 1.0; `logits` float32 (classes, x, y, z) of every
`STRIDE`th voxel; `labels` uint8 (x, y, z). The input is a synthetic image, no patient's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.errors import PackageRefused
from models.declaration import Parity
from models.engines import Engine
from models.package import Package
from models.transforms import Floats, Labels

GOLDEN = "golden/case.npz"
STRIDE = 4  # of the stored logits, along each axis
Mask = npt.NDArray[np.bool_]
ENOUGH_VOXELS = 1000  # a segment smaller than this is not compared by Dice


@dataclass(frozen=True)
class GoldenCase:
    """One window and what the reference made of it."""

    image: Floats  # (x, y, z)
    logits: Floats  # (classes, x / STRIDE, …)
    labels: Labels  # (x, y, z)


def golden_case(package: Package) -> GoldenCase:
    """Return the package's golden case; PackageRefused if it cannot be read."""
    try:
        with np.load(package.path(GOLDEN), allow_pickle=False) as stored:
            image = stored["input"].astype(np.float32) / np.float32(255)
            return GoldenCase(image, stored["logits"].astype(np.float32), stored["labels"].astype(np.uint8))
    except (OSError, KeyError, ValueError) as error:
        raise PackageRefused(f"{GOLDEN}: not readable ({type(error).__name__}: {error})") from error


def disagreement(engine: Engine, package: Package) -> str:
    """Return why `engine` does not agree with the golden case in one sentence, or "" if it does."""
    golden = golden_case(package)
    logits = engine.run(golden.image[None, None])[0]
    return difference(logits, golden, package.manifest.parity)


def difference(logits: Floats, golden: GoldenCase, limits: Parity) -> str:
    """Return the first tolerance that `logits` (classes, x, y, z) break, or ""."""
    if logits.shape[1:] != golden.labels.shape or len(logits) != len(golden.logits):
        return f"answers with shape {logits.shape}"
    if not np.isfinite(logits).all():
        return "answers the golden case with NaN or infinity"
    largest = float(np.abs(logits[:, ::STRIDE, ::STRIDE, ::STRIDE] - golden.logits).max())
    allowed = limits.max_abs_of_range * float(np.ptp(golden.logits))
    if not largest <= allowed:
        return f"differs from the golden logits by {largest:.3g}, allowed are {allowed:.3g}"
    return label_difference(labels_of(logits), golden.labels, limits)


def label_difference(labels: Labels, golden: Labels, limits: Parity) -> str:
    """Return the first tolerance on labels that is broken, or ""."""
    flips = float((labels != golden).mean())
    if flips > limits.max_flips:
        return f"labels {flips:.2e} of the golden voxels otherwise, allowed are {limits.max_flips:.2e}"
    for number in range(1, int(golden.max()) + 1):
        one, two = labels == number, golden == number
        if two.sum() >= ENOUGH_VOXELS and (dice := dice_of(one, two)) < limits.min_dice:
            return f"has Dice {dice:.5f} on golden segment {number}, at least {limits.min_dice} is asked"
    return ""


def dice_of(one: Mask, two: Mask) -> float:
    """Return the Dice coefficient of two masks, 1 if both are empty."""
    total = int(one.sum()) + int(two.sum())
    return 2.0 * int((one & two).sum()) / total if total else 1.0


def labels_of(logits: Floats) -> Labels:
    """Return the class (x, y, z) with the largest of the logits (classes, x, y, z)."""
    return np.asarray(logits.argmax(0), np.uint8)

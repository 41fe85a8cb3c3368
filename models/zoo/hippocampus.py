"""The recipe of `hippocampus`: anterior and posterior hippocampus in T1 crops, learned from 180 labelled ones.

    python -m models.zoo.hippocampus train --input DIR --minutes 30 --out DIR
    python -m models.zoo.hippocampus package --checkpoint FIRST/checkpoint.pt SECOND/checkpoint.pt --out DIR

The crops are those of the Medical Segmentation Decathlon, Task04 (CC BY-SA 4.0): `images` and `labels` of NIfTI files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.operations import ClipPercentile, Scale
from models.training import Budget, Draw
from models.values import changed
from models.zoo.augmentation import Variation, varied
from models.zoo.hippocampus_package import CARD, declaration
from models.zoo.recipe import Lesson, Recipe

CLASSES = 3
ARCHITECTURE: tuple[str, dict[str, Any]] = (
    "thin-unet",
    {"inputs": 1, "classes": CLASSES, "channels": [20, 40, 80, 120], "down": [2, 2, 2, 2], "up": [2, 2, 2]},
)
ROI = (40, 56, 40)  # voxels of 1 mm along right, anterior, superior
HELD_BACK = 40
MADE_UP = 0.1  # share of samples that are made up, so that a body of known volume is measured rightly
FIRST_SEED = 5000  # of those
STEPS = (ClipPercentile(op="clip_percentile", lower=0.5, upper=99.5), Scale(op="scale"))  # as the package declares


def read_crops(folder: Path) -> list[tuple[Tensor, Tensor]]:
    """Return (image (1, x, y, z) as the network sees it, labels (x, y, z)) of every crop, by file name."""
    import nibabel

    crops = []
    for path in sorted((folder / "images").glob("*.nii.gz")):
        image = np.asarray(nibabel.load(path).dataobj, np.float32)  # type: ignore[attr-defined]
        labels = np.asarray(nibabel.load(folder / "labels" / path.name).dataobj, np.uint8)  # type: ignore[attr-defined]
        seen = torch.from_numpy(image)[None]
        for step in STEPS:
            seen = changed(seen, step)
        crops.append((seen, torch.from_numpy(labels)))
    if not crops:
        raise FileNotFoundError(f"no images/*.nii.gz in {folder}")
    return crops


def drawer(crops: list[tuple[Tensor, Tensor]], how: Variation = Variation()) -> Draw:  # noqa: B008
    """Return the function that draws a variant of one of `crops`."""

    def draw(random: torch.Generator, crop: Any) -> tuple[Tensor, Tensor]:
        chosen = int(torch.randint(len(crops), (), generator=random))
        made_up = float(torch.rand((), generator=random)) < MADE_UP
        image, labels = phantom(FIRST_SEED + chosen) if made_up else crops[chosen]
        return varied(image, labels, random, crop, how)

    return draw


def whole(network: nn.Module, image: Tensor) -> Tensor:
    """Return the labels (x, y, z) of a whole crop (1, x, y, z), padded to what the network takes."""
    sides = [(-size) % 8 for size in image.shape[1:]]
    padded = functional.pad(image[None], [0, sides[2], 0, sides[1], 0, sides[0]])
    found: Tensor = network(padded).argmax(1)[0]
    x, y, z = image.shape[1:]
    return found[:x, :y, :z]


@torch.no_grad()
def dice_on(network: nn.Module, crops: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return the mean Dice of anterior and posterior hippocampus over crops."""
    found = [(whole(network, image), labels) for image, labels in crops]
    dice = {}
    for number, name in ((1, "anterior"), (2, "posterior")):
        each = [
            2.0 * float(((ours == number) & (truth == number)).sum())
            / max(1.0, float((ours == number).sum() + (truth == number).sum()))
            for ours, truth in found
        ]  # fmt: skip
        dice[name] = sum(each) / len(each)
    return dice


def lesson(folder: Path | None) -> Lesson:
    """Return samples of all crops but the last 40, which judge."""
    if folder is None:
        raise FileNotFoundError("name the folder of the crops with --input")
    crops = read_crops(folder)
    return Lesson(drawer(crops[:-HELD_BACK]), lambda network: dice_on(network, crops[-HELD_BACK:]))


def budget(minutes: float) -> Budget:
    """Return the schedule: whole crops, two a step."""
    return Budget(
        minutes, batch=2, crops=((0.0, ROI),), class_weights=(0.5, 1.0, 1.0), learning_rate=3e-3, averaging=0.995
    )


def phantom(seed: int = 1914) -> tuple[Tensor, Tensor]:
    """Return a made-up crop (1, x, y, z) of size ROI and its labels: a bent grey body in white matter."""
    random = torch.Generator().manual_seed(seed)
    x, y, z = torch.meshgrid(*(torch.arange(size) - size / 2 for size in ROI), indexing="ij")
    centre_z = 4.0 - 10.0 * (y / 28.0 + 0.4) ** 2
    radius = (0.23 * (26.0 - y.abs())).clamp(0, 5.5)
    body = ((x / 1.3) ** 2 + (z - centre_z) ** 2 < radius**2) & (y.abs() < 22)
    labels = torch.where(body, torch.where(y > 2, 1, 2), 0)
    fluid = (x / 1.3 - 7) ** 2 + (z - centre_z - 3) ** 2 < 9
    image = 0.78 + 0.03 * torch.randn(ROI, generator=random)
    image[fluid] = 0.15
    image[body] = 0.52 + 0.03 * torch.randn(int(body.sum()), generator=random)
    blurred = functional.avg_pool3d(image[None, None], 3, 1, 1)[0]
    return blurred, labels


RECIPE = Recipe(
    name="hippocampus",
    architecture=ARCHITECTURE,
    budget=budget,
    lesson=lesson,
    golden=lambda: [phantom()[0].numpy()],
    declaration=lambda version: declaration(version, ARCHITECTURE, ROI),
    card=CARD,
    input="folder with images/ and labels/ of the crops",
)

if __name__ == "__main__":
    RECIPE.run()

"""The recipe of `head-bleed`: is there fresh blood in a head CT? A classifier for the urgent route.

python -m models.zoo.head_bleed train --minutes 6 --out DIR
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.synthesis import normal, uniform
from models.training import Budget, Draw
from models.transforms import Floats
from models.zoo.cardiac_lv import blurred, ellipse, smooth
from models.zoo.head_bleed_package import CARD, declaration
from models.zoo.recipe import Lesson, Recipe

ARCHITECTURE: tuple[str, dict[str, Any]] = (
    "thin-classifier",
    {"inputs": 1, "classes": 2, "channels": [16, 32, 64, 96], "dimensions": 2},
)
ROI = (96, 96)  # voxels of 2.5 mm along right and anterior
AIR, BRAIN, FLUID, BONE, BLOOD = -1000.0, 34.0, 8.0, 1000.0, (58.0, 80.0)


def scaled(hounsfield: Tensor) -> Tensor:
    """Return an image of 0…1 as the package makes it: 0 to 100 HU."""
    return (hounsfield / 100).clamp(0, 1)


def head(random: torch.Generator, size: tuple[int, ...] = ROI, bleed: bool | None = None) -> tuple[Tensor, Tensor]:
    """Return a slice (1, x, y) of a made-up head, 0…1, and 1 where there is blood in it, else 0."""
    x, y = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size), indexing="ij")
    x, y = x - uniform(random, -5, 5), y - uniform(random, -5, 5)
    turn = uniform(random, -0.3, 0.3)
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    width, length = uniform(random, 22, 31), uniform(random, 28, 38)
    outline = torch.hypot(u / width, v / length) * (1 + 0.03 * smooth(random, size, 6))
    image = torch.full(size, AIR)
    image = torch.where(outline < 1.16, 20.0 + 40 * smooth(random, size, 12), image)
    image = torch.where((outline < 1.08) & (outline > 1.0), BONE * uniform(random, 0.6, 1.3), image)
    brain = outline < 1.0
    cortex = torch.where(outline > 0.86, 6.0, 0.0) + 5 * smooth(random, size, 14)
    image = torch.where(brain, BRAIN + cortex, image)
    sulci = (outline > 0.9) & brain & (smooth(random, size, 22) > 0.9)
    image = torch.where(sulci, FLUID, image)
    spread = uniform(random, 3, 9)
    for side in (-1, 1):
        ventricle = torch.hypot((u - side * spread) / uniform(random, 1.5, 4.5), v / uniform(random, 5, 13)) < 1
        image = torch.where(ventricle & brain, FLUID, image)
    if uniform(random, 0, 1) < 0.5:  # choroid plexus or pineal chalk: bright and small
        speck = torch.hypot(u - uniform(random, -8, 8), v - uniform(random, -12, 12)) < uniform(random, 0.6, 1.2)
        image = torch.where(speck & brain, uniform(random, 80, 200), image)
    present = uniform(random, 0, 1) < 0.5 if bleed is None else bleed
    if present:
        image = bled(image, brain, outline, random)
    streak = 6 * torch.sin((u * math.cos(3 * turn) + v) / uniform(random, 2, 5)) * uniform(random, 0, 1)
    noisy = blurred(image, uniform(random, 0.3, 0.7)) + streak + normal(random, *size) * uniform(random, 1, 6)
    return scaled(noisy)[None], torch.tensor(int(present))


def bled(image: Tensor, brain: Tensor, outline: Tensor, random: torch.Generator) -> Tensor:
    """Return the image with blood within the brain, or as a crescent under the bone."""
    density = uniform(random, *BLOOD)
    size = tuple(image.shape)
    x, y = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size), indexing="ij")
    if uniform(random, 0, 1) < 0.65:
        blob = ellipse(x, y, random, reach=16, radius=(2.5, 10)) * (1 + 0.2 * smooth(random, size, 10))
        return torch.where((blob < 1) & brain, density + 3 * smooth(random, size, 12), image)
    middle = uniform(random, -math.pi, math.pi)
    angle = torch.remainder(torch.atan2(y, x) - middle + math.pi, 2 * math.pi) - math.pi
    thick = uniform(random, 0.08, 0.22) * (1 - (angle / uniform(random, 0.5, 1.3)) ** 2)
    return torch.where(brain & (outline > 1 - thick), density, image)


def draw(random: torch.Generator, crop: Any) -> tuple[Tensor, Tensor]:
    """Return one slice and its class."""
    return head(random, tuple(crop))


@torch.no_grad()
def judge(network: nn.Module) -> dict[str, float]:
    """Return sensitivity and specificity at one half, and the area under the curve, on 400 slices never trained on."""
    random = torch.Generator().manual_seed(7)
    pairs = [head(random) for _ in range(400)]
    scores = torch.softmax(network(torch.stack([image for image, _ in pairs])), 1)[:, 1]
    truth = torch.stack([known for _, known in pairs]).bool()
    yes, no = scores[truth], scores[~truth]
    above = (yes[:, None] > no[None]).float().mean()
    return {
        "sensitivity": float((yes >= 0.5).float().mean()),
        "specificity": float((no < 0.5).float().mean()),
        "auc": float(above),
    }


def lesson(_: Path | None) -> Lesson:
    """Return made-up slices, without end; others judge."""
    samples: Draw = draw
    return Lesson(samples, judge)


def budget(minutes: float) -> Budget:
    """Return the schedule: sixteen slices a step."""
    return Budget(minutes, batch=16, crops=((0.0, ROI),), learning_rate=2e-3, averaging=0.98, checkpoint_s=60.0)


def golden() -> list[Floats]:
    """Return a slice with blood and one without."""
    random = torch.Generator().manual_seed(1914)
    return [head(random, ROI, bleed)[0].numpy() for bleed in (True, False)]


RECIPE = Recipe(
    name="head-bleed",
    architecture=ARCHITECTURE,
    budget=budget,
    lesson=lesson,
    golden=golden,
    declaration=lambda version: declaration(version, ARCHITECTURE, ROI),
    card=CARD,
    input="nothing: every slice is made up",
)

if __name__ == "__main__":
    RECIPE.run()

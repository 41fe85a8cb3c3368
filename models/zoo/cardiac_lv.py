"""The recipe of `cardiac-lv`: cavity and muscle of the left ventricle in short-axis cine MR, slice by slice.

    python -m models.zoo.cardiac_lv train --input cine.npz --minutes 15 --out DIR

Learned from phantoms (rings of random geometry and contrast) and, where --input names it, from the expert contours of
one study of the Sunnybrook Cardiac Data (CC0; Radau et al.). The other study is held back.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.synthesis import normal, uniform
from models.training import Budget, Draw
from models.transforms import Floats
from models.zoo.cardiac_lv_package import CARD, declaration
from models.zoo.recipe import Lesson, Recipe

CLASSES = 3  # background, cavity, muscle
ARCHITECTURE: tuple[str, dict[str, Any]] = (
    "thin-unet",
    {
        "inputs": 1,
        "classes": CLASSES,
        "channels": [16, 32, 64, 96, 128],
        "down": [1, 2, 2, 2, 2],
        "up": [1, 2, 2, 2],
        "dimensions": 2,
    },
)
CROP = (160, 160)  # voxels of 1.5 mm along columns and rows, around the heart: what it is trained on
ROI = (240, 240)  # what it reads at once: a whole slice, so that the heart is near the middle of a window
SPACING_MM = 1.5
REAL = 0.5  # share of samples drawn from the real study, where there is one
TRAINED_ON, HELD_BACK = "SC-HF-I-1", "SC-HF-I-2"
Slice = tuple[Tensor, Tensor]  # image (x, y) of about 0…1, labels (x, y)


def scaled(image: Tensor) -> Tensor:
    """Return an image clipped to its percentiles 0.5 and 99.5 and mapped to 0…1, as the package does."""
    low, high = (float(one) for one in np.percentile(image.numpy(), [0.5, 99.5]))
    return (image.clamp(low, high) - low) / max(1e-6, high - low)


def phantom(random: torch.Generator, size: tuple[int, ...] = CROP) -> Slice:
    """Return a slice of a made-up chest: a bright cavity in a dark ring, another beside it, clutter."""
    x, y = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) - n / 2 for n in size), indexing="ij")
    image = uniform(random, 0.1, 0.35) + 0.08 * smooth(random, size, 6)
    for _ in range(int(uniform(random, 4, 10))):
        blob = ellipse(x, y, random, reach=75, radius=(8, 40))
        image = torch.where(blob < 1, uniform(random, 0.02, 0.9) + 0.04 * smooth(random, size, 10), image)
    labels = torch.zeros(size, dtype=torch.long)
    if uniform(random, 0, 1) > 0.12:
        image, labels = heart(image, labels, x, y, random)
    image = blurred(image, uniform(random, 0.3, 1.2)) + normal(random, *size) * uniform(random, 0.0, 0.06)
    return scaled(image), labels


def heart(image: Tensor, labels: Tensor, x: Tensor, y: Tensor, random: torch.Generator) -> Slice:
    """Return image and labels with a left ventricle, its muscle and a right ventricle beside it."""
    size = tuple(image.shape)
    blood, muscle = uniform(random, 0.65, 1.0), uniform(random, 0.15, 0.42)
    cx, cy = uniform(random, -22, 22), uniform(random, -22, 22)
    radius, wall = uniform(random, 4, 22), uniform(random, 3.5, 10)
    squash, turn = uniform(random, 0.8, 1.25), uniform(random, 0, math.pi)
    wave = 1 + 0.06 * torch.sin(3 * torch.atan2(y - cy, x - cx) + uniform(random, 0, 6))
    u = ((x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)) * squash
    v = ((y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)) / squash
    distance = torch.hypot(u, v) / wave
    side = uniform(random, 0, 2 * math.pi)
    away = radius + wall + uniform(random, 4, 14)
    rx, ry = cx + away * math.cos(side), cy + away * math.sin(side)
    right = torch.hypot((x - rx) / uniform(random, 0.7, 1.2), (y - ry) / uniform(random, 0.9, 1.5))
    image = torch.where(right < uniform(random, 8, 22), blood * uniform(random, 0.85, 1.1), image)
    image = torch.where(distance < radius + wall, muscle + 0.03 * smooth(random, size, 12), image)
    cavity = distance < radius
    image = torch.where(cavity, blood + 0.06 * smooth(random, size, 8), image)
    papillary = torch.hypot(x - cx - 0.5 * radius, y - cy) < uniform(random, 0, 0.22) * radius
    image = torch.where(papillary & cavity, muscle, image)
    labels = torch.where(distance < radius + wall, 2, labels)
    return image, torch.where(cavity, 1, labels)


def ellipse(x: Tensor, y: Tensor, random: torch.Generator, reach: float, radius: tuple[float, float]) -> Tensor:
    """Return a field that is below 1 inside of a random ellipse."""
    cx, cy = uniform(random, -reach, reach), uniform(random, -reach, reach)
    return torch.hypot((x - cx) / uniform(random, *radius), (y - cy) / uniform(random, *radius))


def smooth(random: torch.Generator, size: tuple[int, ...], cells: int) -> Tensor:
    """Return a smooth random field."""
    coarse = normal(random, 1, 1, cells, cells)
    return functional.interpolate(coarse, size=size, mode="bilinear", align_corners=True)[0, 0]


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Return an image after a Gaussian of `sigma` voxels."""
    reach = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (reach / sigma) ** 2)
    kernel = kernel / kernel.sum()
    once = functional.conv2d(image[None, None], kernel[None, None, :, None], padding=(4, 0))
    return functional.conv2d(once, kernel[None, None, None, :], padding=(0, 4))[0, 0]


def read_cases(path: Path | None, case: str) -> list[Slice]:
    """Return the slices of one study from the file that `python -m workers.training_cases cine` wrote; none without."""
    if path is None:
        return []
    with np.load(path, allow_pickle=False) as stored:
        images, labels = stored[f"{case}/images"], stored[f"{case}/labels"]
        spacing_mm = float(stored[f"{case}/spacing_mm"])
    return [
        at_spacing(torch.from_numpy(image.astype(np.float32)), torch.from_numpy(known.astype(np.int64)), spacing_mm)
        for image, known in zip(images, labels, strict=True)
    ]


def at_spacing(image: Tensor, labels: Tensor, spacing_mm: float) -> Slice:
    """Return a slice at the network's spacing."""
    size = [round(n * spacing_mm / SPACING_MM) for n in image.shape]
    finer = functional.interpolate(image[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    nearest = functional.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0]
    return scaled(finer), nearest.long()


def varied(one: Slice, random: torch.Generator, crop: tuple[int, ...]) -> Slice:
    """Return a variant of a real slice: turned by any angle, mirrored, scaled, shifted, lit otherwise."""
    image, labels = one
    angle, scale = uniform(random, 0, 2 * math.pi), uniform(random, 0.8, 1.25)
    mirror = -1.0 if uniform(random, 0, 1) < 0.5 else 1.0
    matrix = (
        torch.tensor([[math.cos(angle), -math.sin(angle) * mirror], [math.sin(angle), math.cos(angle) * mirror]])
        * scale
    )
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in crop]
    around = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    shift = torch.tensor([uniform(random, -18, 18), uniform(random, -18, 18)])
    warp = torch.stack([smooth(random, crop, 5), smooth(random, crop, 5)], -1) * 1.2
    half = torch.tensor([(n - 1) / 2 for n in image.shape])
    places = ((around @ matrix.T + shift + warp) / half).flip(-1)[None]
    moved = functional.grid_sample(image[None, None], places, align_corners=True)[0, 0]
    target = functional.grid_sample(labels[None, None].float(), places, mode="nearest", align_corners=True)[0, 0]
    lit = moved.clamp(min=0) ** (2 ** uniform(random, -0.6, 0.6)) * torch.exp(0.3 * smooth(random, crop, 3))
    return scaled(lit + normal(random, *crop) * uniform(random, 0, 0.05)), target.long()


def drawer(real: list[Slice]) -> Draw:
    """Return the function that draws a phantom, or a variant of a real slice."""

    def draw(random: torch.Generator, crop: Any) -> tuple[Tensor, Tensor]:
        if real and uniform(random, 0, 1) < REAL:
            image, labels = varied(real[int(torch.randint(len(real), (), generator=random))], random, crop)
        else:
            image, labels = phantom(random, tuple(crop))
        return image[None], labels

    return draw


@torch.no_grad()
def dice_on(network: nn.Module, slices: list[Slice]) -> dict[str, float]:
    """Return the Dice of the cavity over all voxels of held-back slices, and on phantoms."""
    random = torch.Generator().manual_seed(7)
    made = [phantom(random) for _ in range(24)]
    figures = {}
    for name, several in (("held_back_cavity", slices), ("phantom_cavity", made)):
        both = total = 0.0
        for image, labels in several:
            x, y = (n - n % 16 for n in image.shape)
            found = network(image[None, None, :x, :y]).argmax(1)[0] == 1
            truth = labels[:x, :y] == 1
            both += 2 * float((found & truth).sum())
            total += float(found.sum() + truth.sum())
        if total:
            figures[name] = both / total
    return figures


def lesson(cases: Path | None) -> Lesson:
    """Return samples of phantoms and, where there is a file of cases, of one real study; the other judges."""
    judged = read_cases(cases, HELD_BACK)
    return Lesson(drawer(read_cases(cases, TRAINED_ON)), lambda network: dice_on(network, judged))


def budget(minutes: float) -> Budget:
    """Return the schedule: eight slices a step."""
    return Budget(
        minutes, batch=8, crops=((0.0, CROP),), class_weights=(0.5, 1.5, 1.0), learning_rate=3e-3, averaging=0.99
    )


def golden() -> list[Floats]:
    """Return two phantom slices."""
    random = torch.Generator().manual_seed(1914)
    return [phantom(random, ROI)[0].numpy()[None] for _ in range(2)]


RECIPE = Recipe(
    name="cardiac-lv",
    architecture=ARCHITECTURE,
    budget=budget,
    lesson=lesson,
    golden=golden,
    declaration=lambda version: declaration(version, ARCHITECTURE, ROI),
    card=CARD,
    input="file of `python -m workers.training_cases cine`; without it phantoms alone",
)

if __name__ == "__main__":
    RECIPE.run()

"""The recipe of `brain-tumour`: a package of three inputs (T1 after contrast, FLAIR, T2), learned from made-up tumours.

    python -m models.zoo.brain_tumour train --input LABELS --minutes 15 --out DIR

Heads are drawn from label maps as for brain-structures, each in three contrasts, with an edema, a core and an enhancing
rim of random shape; it learns to find them as one. No image of a patient is used: what it shows on one is not to be
trusted, and its card says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.synthesis import Strengths, acquired, deformed_labels, near_brain, normal, smooth_field, uniform
from models.training import Budget, Draw
from models.transforms import Floats
from models.zoo.brain_structures_labels import read_labels, tissues
from models.zoo.brain_tumour_package import CARD, declaration
from models.zoo.recipe import Lesson, Recipe

CLASSES = 2  # background, tumor with its edema
ARCHITECTURE: tuple[str, dict[str, Any]] = (
    "thin-unet",
    {"inputs": 3, "classes": CLASSES, "channels": [8, 16, 32, 64], "down": [1, 2, 2, 2], "up": [1, 2, 2]},
)
ROI = (48, 48, 48)  # voxels of 2 mm along right, anterior, superior
TRAINING_MAPS = 16
MILD = Strengths(noise=0.04, thick=0.5, bias=0.25)
# class of brain-structures → lowest and highest mean in T1 after contrast, FLAIR, T2
LOOK = {
    1: ((0.42, 0.56), (0.52, 0.68), (0.45, 0.60)),
    2: ((0.58, 0.72), (0.42, 0.56), (0.30, 0.42)),
    3: ((0.08, 0.22), (0.04, 0.16), (0.85, 1.00)),
    4: ((0.45, 0.60), (0.48, 0.62), (0.40, 0.55)),
    5: ((0.50, 0.64), (0.46, 0.60), (0.36, 0.50)),
    6: ((0.42, 0.56), (0.54, 0.70), (0.45, 0.60)),
    7: ((0.52, 0.66), (0.42, 0.56), (0.34, 0.48)),
}
LESION = {1: ((-0.12, 0.0), (0.22, 0.45), (0.25, 0.45)), 2: ((-0.3, -0.1), (-0.1, 0.3), (0.25, 0.5)),
          3: ((0.3, 0.6), (0.1, 0.35), (0.05, 0.3))}  # fmt: skip


def drawn(labels: Tensor, random: torch.Generator, crop: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return an image (3, x, y, z) of about 0…1 and its classes (x, y, z)."""
    indices = deformed_labels(labels, random, crop, MILD)
    lesion = tumour(indices, random) if uniform(random, 0, 1) < 0.85 else torch.zeros_like(indices)
    channels = [contrast(indices, lesion, n, random) for n in range(3)]
    image = torch.stack([scaled(acquired(one, random, MILD)) for one in channels])
    return image, (lesion > 0).long()


def tumour(indices: Tensor, random: torch.Generator) -> Tensor:
    """Return the parts of one tumour (1 edema, 2 core, 3 rim) whose middle lies in brain; none without brain."""
    brain = near_brain(indices, tissues(), 0)
    inside = torch.nonzero(brain)
    if not len(inside):
        return torch.zeros_like(indices)
    middle = inside[int(torch.randint(len(inside), (), generator=random))].float()
    shape = tuple(indices.shape)
    axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in shape), indexing="ij")
    away = torch.sqrt(sum(((axis - at) ** 2 for axis, at in zip(axes, middle, strict=True)), torch.zeros(shape)))
    radius = uniform(random, 4, 13)
    rough = away * (1 + 0.22 * smooth_field(random, 1, shape, 9)[0, 0])
    core = radius * uniform(random, 0.35, 0.8)
    rim = core + uniform(random, 0.8, 2.5)
    classes = torch.where(rough < radius + 3, 1, 0)
    classes = torch.where(rough < rim, 3, classes)
    classes = torch.where(rough < core * uniform(random, 0.3, 1.0), 2, classes)
    return torch.where(near_brain(indices, tissues(), 1), classes, 0)


def contrast(indices: Tensor, lesion: Tensor, channel: int, random: torch.Generator) -> Tensor:
    """Return one channel before the scanner: 0 T1 after contrast, 1 FLAIR, 2 T2."""
    known = tissues()
    means = torch.rand(len(known.numbers), generator=random)
    for n, number in enumerate(known.classes):
        if number:
            low, high = LOOK[number][channel]
            means[n] = low + (high - low) * means[n]
    for n, other in known.alike.items():
        means[n] = means[other]
    means[0] = 0.0
    image = means[indices] + 0.03 * normal(random, *indices.shape)
    mottle = 0.05 * smooth_field(random, 1, indices.shape, 12)[0, 0]
    for number, looks in LESION.items():
        change = uniform(random, *looks[channel])
        image = torch.where(lesion == number, (image + change + mottle).clamp(min=0.02), image)
    return image


def scaled(image: Tensor) -> Tensor:
    """Return an image scaled by mean and deviation of what is not air, as the package does it."""
    counted = image[image > 0.02]
    deviation = counted.std() if len(counted) > 1 else torch.tensor(1.0)
    mean = counted.mean() if len(counted) else torch.tensor(0.0)
    return torch.where(image > 0.02, (image - mean) / deviation.clamp(min=1e-3), 0.0)


def drawer(maps: list[Tensor]) -> Draw:
    """Return the function that draws one head of `maps`."""

    def draw(random: torch.Generator, crop: Any) -> tuple[Tensor, Tensor]:
        return drawn(maps[int(torch.randint(len(maps), (), generator=random))], random, tuple(crop))

    return draw


def judge(maps: list[Tensor]) -> Any:
    """Return the function that gives the Dice of the tumour on heads of `maps`."""

    @torch.no_grad()
    def dice(network: nn.Module) -> dict[str, float]:
        random = torch.Generator().manual_seed(7)
        both = total = 0.0
        for labels in maps * 2:
            image, classes = drawn(labels, random, ROI)
            found = network(image[None]).argmax(1)[0] == 1
            both += 2.0 * float((found & (classes == 1)).sum())
            total += float(found.sum() + classes.sum())
        return {"tumour": both / total}

    return dice


def lesson(folder: Path | None) -> Lesson:
    """Return samples of 16 label maps; the others judge."""
    if folder is None:
        raise FileNotFoundError("name the folder of the label maps with --input")
    maps = read_labels(folder)
    return Lesson(drawer(maps[:TRAINING_MAPS]), judge(maps[TRAINING_MAPS:]))


def budget(minutes: float) -> Budget:
    """Return the schedule: two windows a step."""
    return Budget(minutes, batch=2, crops=((0.0, ROI),), class_weights=(0.6, 1.6), learning_rate=2.5e-3, averaging=0.99)


def golden() -> list[Floats]:
    """Return one made-up window: a ball of brain with a tumour in it, in three contrasts."""
    random = torch.Generator().manual_seed(1914)
    axes = torch.meshgrid(*(torch.arange(size) - size / 2 for size in ROI), indexing="ij")
    away = torch.sqrt(sum((axis**2 for axis in axes), torch.zeros(ROI)))
    number = {kind: index for index, kind in reversed(list(enumerate(tissues().classes)))}
    indices = torch.where(away < 26, number[2], torch.where(away < 29, number[1], 0)).long()
    lesion = tumour(indices, random)
    channels = [scaled(acquired(contrast(indices, lesion, n, random), random, MILD)) for n in range(3)]
    return [torch.stack(channels).numpy()]


RECIPE = Recipe(
    name="brain-tumour",
    architecture=ARCHITECTURE,
    budget=budget,
    lesson=lesson,
    golden=golden,
    declaration=lambda version: declaration(version, ARCHITECTURE, ROI),
    card=CARD,
    input="folder of the label maps (seg_*.nii.gz or labels.npz)",
)

if __name__ == "__main__":
    RECIPE.run()

"""The recipe of `lung-nodule`: lungs, and nodules within them, in chest CT; learned from phantoms with known nodules.

    python -m models.zoo.lung_nodule train --input chest.npz --minutes 20 --out DIR

Nodules of analytic shape are set into made-up lungs and, for texture, into the left lung of one real chest CT (where
--input names it). Its right lung, with the real mass, is never looked at while training.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from appliance.volume import Volume
from models.operations import FillOutside, Orient, Resample
from models.synthesis import blurred, normal, smooth_field, uniform
from models.training import UNKNOWN, Budget, Draw
from models.transforms import Floats, prepared
from models.values import changed
from models.zoo.lung_nodule_package import CARD, FILL_OUTSIDE, declaration
from models.zoo.recipe import Lesson, Recipe

CLASSES = 3  # background, lung, nodule
ARCHITECTURE: tuple[str, dict[str, Any]] = (
    "thin-unet",
    {"inputs": 1, "classes": CLASSES, "channels": [8, 16, 32, 64], "down": [1, 2, 2, 2], "up": [1, 2, 2]},
)
ROI = (48, 48, 48)  # voxels of 2 mm along right, anterior, superior
SPACING_MM = 2.0
REAL = 0.65  # share of samples drawn from the real lung, where there is one
AIR, LUNG, SOFT, BONE = -1000.0, -860.0, 30.0, 500.0
OUTSIDE = FillOutside.model_validate(FILL_OUTSIDE)  # what the package makes of the air around the body
Sample = tuple[Tensor, Tensor]  # HU (x, y, z), classes (x, y, z)


def scaled(hounsfield: Tensor) -> Tensor:
    """Return an image of 0…1 as the package makes it: -1000 to 400 HU."""
    return ((hounsfield + 1000) / 1400).clamp(0, 1)


def places(size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return coordinates in voxels from the middle of a window."""
    x, y, z = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size), indexing="ij")
    return x, y, z


def made_up(random: torch.Generator, size: tuple[int, ...] = ROI) -> Sample:
    """Return a window of a made-up chest: lung with vessels, its wall with ribs, a dense organ in a corner."""
    x, y, z = places(size)
    turn, tilt = uniform(random, 0, 2 * math.pi), uniform(random, -0.5, 0.5)
    depth = x * math.cos(turn) + y * math.sin(turn) + z * tilt + 5 * smooth_field(random, 1, size, 4)[0, 0]
    wall = uniform(random, -10, 40)
    image = torch.full(size, LUNG) + 25 * smooth_field(random, 1, size, 10)[0, 0]
    lung = depth < wall
    for _ in range(int(uniform(random, 4, 14))):
        tube = vessel(x, y, z, random)
        image = torch.where(lung & (tube < 1), uniform(random, -300, 60), image)
    soft = SOFT + 30 * smooth_field(random, 1, size, 8)[0, 0]
    image = torch.where(lung, image, soft)
    ribs = (torch.sin((z + depth * 0.4) / uniform(random, 4, 7)) > 0.55) & (depth > wall + 2) & (depth < wall + 6)
    image = torch.where(ribs, BONE, image)
    image = torch.where(depth > wall + uniform(random, 15, 30), OUTSIDE.value, image)
    if uniform(random, 0, 1) < 0.5:  # heart or diaphragm
        cx, cy, cz = (uniform(random, -45, 45) for _ in range(3))
        organ = torch.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) < uniform(random, 12, 34)
        image, lung = torch.where(organ, soft + 10, image), lung & ~organ
    return image, lung.long()


def vessel(x: Tensor, y: Tensor, z: Tensor, random: torch.Generator) -> Tensor:
    """Return a field that is below 1 inside of a bent, tapering tube."""
    direction = normal(random, 3)
    a, b, c = (direction / direction.norm()).tolist()
    px, py, pz = (uniform(random, -30, 30) for _ in range(3))
    dx, dy, dz = x - px, y - py, z - pz
    along = dx * a + dy * b + dz * c
    bend = uniform(random, -0.008, 0.008)
    across = torch.sqrt((dx - along * a + bend * along**2) ** 2 + (dy - along * b) ** 2 + (dz - along * c) ** 2)
    return across / (uniform(random, 0.5, 3.0) * torch.exp(-along.abs() / uniform(random, 20, 80)))


def with_nodules(image: Tensor, classes: Tensor, random: torch.Generator) -> Sample:
    """Return image and classes with none to three nodules whose middle lies in lung."""
    lung = torch.nonzero(classes == 1)
    count = int(uniform(random, 0, 3.6)) if len(lung) else 0
    x, y, z = (axis.float() for axis in torch.meshgrid(*(torch.arange(n) for n in image.shape), indexing="ij"))
    for _ in range(count):
        cx, cy, cz = lung[int(torch.randint(len(lung), (), generator=random))].tolist()
        radius = math.exp(uniform(random, math.log(1.3), math.log(9.0)))  # 5 to 36 mm across
        image, classes = nodule(image, classes, (x - cx, y - cy, z - cz), radius, random)
    return image, classes


def nodule(
    image: Tensor, classes: Tensor, away: tuple[Tensor, Tensor, Tensor], radius: float, random: torch.Generator
) -> Sample:
    """Return image and classes with one nodule: an ellipsoid, lobed and spiculated more or less."""
    dx, dy, dz = away
    stretch = [uniform(random, 0.8, 1.25) for _ in range(3)]
    distance = torch.sqrt((dx / stretch[0]) ** 2 + (dy / stretch[1]) ** 2 + (dz / stretch[2]) ** 2)
    rough = uniform(random, 0, 0.25) * smooth_field(random, 1, tuple(image.shape), 14)[0, 0]
    inside = distance < radius * (1 + rough)
    share = torch.sigmoid((radius * (1 + rough) - distance) / 0.45)
    density = uniform(random, -60, 90) if uniform(random, 0, 1) < 0.85 else uniform(random, -550, -250)
    image = image + share * (density - image).clamp(min=0)
    return image, torch.where(inside & (classes == 1), 2, classes)


def acquired(image: Tensor, random: torch.Generator, noise: float) -> Tensor:
    """Return an image with the blur, the slice thickness and the noise of a scanner."""
    sigma = uniform(random, 0.3, 0.8)
    result = blurred(image, [sigma, sigma, uniform(random, 0.3, 1.3)])
    return result + normal(random, *image.shape) * uniform(random, 0, noise)


def read_left_lung(path: Path) -> Sample:
    """Return the real CT at 2 mm (R-A-S): HU, and 1 for lung; UNKNOWN right of the middle, where the mass is."""
    with np.load(path, allow_pickle=False) as stored:
        volume = Volume(stored["voxels"], stored["affine"], (), "", "", modality="CT")
    spacing = Resample(op="resample", spacing_mm=(SPACING_MM,) * 3)
    image, _ = prepared([volume], [Orient(op="orient", axcodes="RAS"), spacing])
    hounsfield = image[0]
    air = (hounsfield < -400).numpy()
    parts = cc3d.connected_components(air, connectivity=6)
    edge = np.unique(np.concatenate([parts[0].ravel(), parts[-1].ravel(), parts[:, 0].ravel(), parts[:, -1].ravel()]))
    inside = np.where(np.isin(parts, edge), 0, parts)
    lungs = cc3d.dust(inside > 0, threshold=20_000, connectivity=6) > 0
    closed = ndimage.binary_closing(lungs, np.ones((3, 3, 3), bool), iterations=3)
    classes = torch.from_numpy(closed.astype(np.int64))
    classes[classes.shape[0] // 2 - 4 :] = UNKNOWN  # the axis runs towards the patient's right
    return changed(image, OUTSIDE)[0], classes


def drawer(real: Sample | None) -> Draw:
    """Return the function that draws a made-up window, or one of the real lung, with nodules set in."""

    def draw(random: torch.Generator, crop: Any) -> tuple[Tensor, Tensor]:
        size = tuple(crop)
        if real is not None and uniform(random, 0, 1) < REAL:
            image, classes = window(real, random, size)
            image, classes = with_nodules(image, classes, random)
            image = acquired(image, random, 25.0)
        else:
            image, classes = with_nodules(*made_up(random, size), random)
            image = acquired(image, random, 60.0)
        return scaled(image)[None], classes

    return draw


def window(real: Sample, random: torch.Generator, size: tuple[int, ...]) -> Sample:
    """Return a window around a voxel of the real lung or of anything known, mirrored half of the time."""
    image, classes = real
    inside = torch.nonzero(classes == 1 if uniform(random, 0, 1) < 0.5 else classes != UNKNOWN)
    middle = inside[int(torch.randint(len(inside), (), generator=random))]
    padding = [side for n in reversed(size) for side in (n // 2, n // 2)]
    wide = functional.pad(image, padding, value=AIR)
    known = functional.pad(classes, padding, value=UNKNOWN)
    cut = tuple(slice(int(at), int(at) + n) for at, n in zip(middle, size, strict=True))
    if uniform(random, 0, 1) < 0.5:
        return wide[cut].flip(1), known[cut].flip(1)
    return wide[cut], known[cut]


@torch.no_grad()
def judge(network: nn.Module) -> dict[str, float]:
    """Return the Dice of lung and nodules on made-up windows."""
    random = torch.Generator().manual_seed(7)
    both, total = torch.zeros(CLASSES), torch.zeros(CLASSES)
    for _ in range(12):
        image, classes = with_nodules(*made_up(random), random)
        found = network(scaled(acquired(image, random, 40.0))[None, None]).argmax(1)[0]
        for number in (1, 2):
            one, two = found == number, classes == number
            both[number] += 2.0 * float((one & two).sum())
            total[number] += float(one.sum() + two.sum())
    return {"phantom_lung": float(both[1] / total[1]), "phantom_nodule": float(both[2] / total[2])}


def lesson(path: Path | None) -> Lesson:
    """Return samples of made-up chests and, where a file is named, of one real left lung; phantoms judge."""
    return Lesson(drawer(read_left_lung(path) if path else None), judge)


def budget(minutes: float) -> Budget:
    """Return the schedule: two windows a step."""
    return Budget(
        minutes, batch=2, crops=((0.0, ROI),), class_weights=(0.7, 0.7, 2.5), learning_rate=2.5e-3, averaging=0.99
    )


def golden() -> list[Floats]:
    """Return one made-up window with nodules."""
    random = torch.Generator().manual_seed(1916)
    image, _ = with_nodules(*made_up(random), random)
    return [scaled(acquired(image, random, 30.0)).numpy()[None]]


RECIPE = Recipe(
    name="lung-nodule",
    architecture=ARCHITECTURE,
    budget=budget,
    lesson=lesson,
    golden=golden,
    declaration=lambda version: declaration(version, ARCHITECTURE, ROI),
    card=CARD,
    input="file of `python -m workers.training_cases chest`; without it made-up chests alone",
)

if __name__ == "__main__":
    RECIPE.run()

"""Four hospitals made of one public set of crops: unequal in size, each with a scanner of its own.

The 220 labelled hippocampus crops of the Medical Segmentation Decathlon (Task04, CC BY-SA 4.0), or made-up crops where
they are absent. What a scanner does to an image is drawn from its own seed, so each hospital differs in one way always.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from models.local_pass import Case, is_held_back
from models.synthesis import normal, smooth_field
from models.zoo.hippocampus import phantom, read_crops

MADE_UP = 60  # crops, where the public ones are absent
FIRST_SEED = 900  # of those
ARCHIVE = "data/mr_hippocampus_decathlon.tar.xz"  # below the folder of shared data
HELD_BACK = 0.25  # of each hospital's patients
Crop = tuple[Tensor, Tensor]  # image (1, x, y, z), 0 to 1; labels (x, y, z)


@dataclass(frozen=True)
class Scanner:
    """What one hospital's machine does to every image."""

    name: str
    share: float  # of all crops
    coarser: float = 1.0  # voxels along the first two axes are this much wider
    bias: float = 0.0  # strength of the bias field
    noise: float = 0.0
    gamma: float = 1.0  # below 1 brighter, above 1 darker
    inverted: bool = False  # T2-like: dark is bright


SCANNERS = (
    Scanner("north", 0.42, noise=0.02),
    Scanner("east", 0.28, coarser=1.8, gamma=0.7),
    Scanner("south", 0.18, bias=0.5, noise=0.06, gamma=1.6),
    Scanner("west", 0.12, noise=0.05, inverted=True),
)


@dataclass(frozen=True)
class Hospital:
    """The cases of one site."""

    name: str
    training: tuple[Case, ...]
    held_back: tuple[Case, ...]


def crops_of(folder: Path | None) -> list[Crop]:
    """Return the crops in a folder with images/ and labels/, or made-up ones without a folder."""
    return read_crops(folder) if folder else [phantom(FIRST_SEED + n) for n in range(MADE_UP)]


def unpacked(shared: Path, place: Path) -> Path | None:
    """Unpack the public crops into a folder and return where they lie; None where they are not there."""
    if not (shared / ARCHIVE).exists():
        return None
    with tarfile.open(shared / ARCHIVE) as archive:
        archive.extractall(place, filter="data")
    return next(place.rglob("images")).parent


def deal(count: int, seed: int) -> dict[str, list[int]]:
    """Return which of `count` crops each hospital has."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    found, first = {}, 0
    for scanner in SCANNERS:
        found[scanner.name] = order[first : first + round(scanner.share * count)]
        first += len(found[scanner.name])
    return found


def hospitals(crops: Sequence[Crop], seed: int) -> list[Hospital]:
    """Return the four hospitals; `seed` deals the crops."""
    dealt, found = deal(len(crops), seed), []
    for scanner in SCANNERS:
        cases = [Case(*as_seen(crops[n], scanner, n), f"crop-{n}", scanner.name) for n in dealt[scanner.name]]
        found.append(
            Hospital(
                scanner.name,
                tuple(one for one in cases if not is_held_back(one.patient, scanner.name, HELD_BACK)),
                tuple(one for one in cases if is_held_back(one.patient, scanner.name, HELD_BACK)),
            )
        )
    return found


def as_seen(crop: Crop, scanner: Scanner, number: int) -> Crop:
    """Return a crop as a scanner shows it, 0 to 1.5."""
    image, labels = crop
    random = torch.Generator().manual_seed(number)
    seen = image.clamp(0, 1) ** scanner.gamma
    seen = 1 - seen if scanner.inverted else seen
    if scanner.coarser > 1:
        size = [max(4, round(n / scanner.coarser)) for n in seen.shape[1:3]] + [seen.shape[3]]
        wide = functional.interpolate(seen[None], size=size, mode="trilinear", align_corners=False)
        seen = functional.interpolate(wide, size=seen.shape[1:], mode="trilinear", align_corners=False)[0]
    if scanner.bias:
        seen = seen * torch.exp(smooth_field(random, 1, seen.shape[1:], 3)[0] * scanner.bias)
    if scanner.noise:
        seen = seen + normal(random, *seen.shape) * scanner.noise
    return seen.clamp(0, 1.5), labels.long()


def cases_of(several: Sequence[Hospital]) -> list[Case]:
    """Return all training cases, as if no wall stood between the hospitals."""
    return [case for one in several for case in one.training]

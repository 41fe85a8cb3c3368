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

MADE_UP = 112  # crops, where the public ones are absent
EARLIER, LATER = 24, 4  # crops that no hospital has: all start from what the first taught, the others are read at last
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


SCANNERS = (
    Scanner("north", 0.42, noise=0.02),
    Scanner("east", 0.28, coarser=1.8, gamma=0.7),
    Scanner("south", 0.18, bias=0.7, noise=0.06, gamma=1.6),
    Scanner("west", 0.12, coarser=1.4, noise=0.10, gamma=2.4),
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


@dataclass(frozen=True)
class Deal:
    """Who has which crop, by number."""

    earlier: list[int]
    later: list[int]
    sites: dict[str, list[int]]


def deal(count: int, seed: int) -> Deal:
    """Return who has which of `count` crops."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    earlier, later, order = order[:EARLIER], order[EARLIER : EARLIER + LATER], order[EARLIER + LATER :]
    sites, first = {}, 0
    for scanner in SCANNERS:
        sites[scanner.name] = order[first : first + round(scanner.share * len(order))]
        first += len(sites[scanner.name])
    return Deal(earlier, later, sites)


def hospitals(crops: Sequence[Crop], dealt: Deal) -> list[Hospital]:
    """Return the four hospitals."""
    found = []
    for scanner in SCANNERS:
        cases = [Case(*as_seen(crops[n], scanner, n), f"crop-{n}", scanner.name) for n in dealt.sites[scanner.name]]
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

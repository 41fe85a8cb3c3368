"""Four hospitals made of one public set of crops: unequal in size, each with a scanner of its own.

The 220 labelled hippocampus crops of the Medical Segmentation Decathlon (Task04, CC BY-SA 4.0), or made-up crops where
they are absent. What a scanner does to an image is drawn from its own seed, so each hospital differs in one way always.
"""

from __future__ import annotations

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
HELD_BACK = 0.25  # of each hospital's patients


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


def hospitals(folder: Path | None, seed: int, most: int | None = None) -> list[Hospital]:
    """Return the four hospitals; `seed` deals the crops, `most` bounds their number."""
    crops = read_crops(folder) if folder else [phantom(900 + n) for n in range(MADE_UP)]
    order = torch.randperm(len(crops), generator=torch.Generator().manual_seed(seed)).tolist()[:most]
    found, first = [], 0
    for scanner in SCANNERS:
        mine = order[first : first + round(scanner.share * len(order))]
        first += len(mine)
        cases = [as_seen(crops[n], scanner, n) for n in mine]
        found.append(
            Hospital(
                scanner.name,
                tuple(one for one in cases if not is_held_back(one.patient, scanner.name, HELD_BACK)),
                tuple(one for one in cases if is_held_back(one.patient, scanner.name, HELD_BACK)),
            )
        )
    return found


def as_seen(crop: tuple[Tensor, Tensor], scanner: Scanner, number: int) -> Case:
    """Return a crop as a scanner shows it, 0 to 1."""
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
    return Case(seen.clamp(0, 1.5), labels.long(), f"crop-{number}", scanner.name)


def cases_of(several: Sequence[Hospital]) -> list[Case]:
    """Return all training cases, as if no wall stood between the hospitals."""
    return [case for one in several for case in one.training]

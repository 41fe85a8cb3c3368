"""What both subjects of the federated benchmark train: a network of five million weights, on made-up cases.

Untrained, and of no use to anybody. It must never differ between the subjects.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.blocks import Block, blocks
from bench.consortium import uid_of
from models.holding_back import is_held_back
from models.networks import build
from models.packaging import write_package
from models.zoo.hippocampus_package import declaration

PACKAGE, CLASSES = "wide", 3
KWARGS = {"inputs": 1, "classes": CLASSES, "channels": [16, 64, 160, 272], "down": [1, 1, 2, 2], "up": [1, 1, 1]}
ARCHITECTURE = ("thin-unet", KWARGS)
ROI = (16, 16, 16)
PATIENTS = 6
SEED = 1914


def declared() -> dict[str, Any]:
    """Return what the package declares."""
    content = declaration("0.1.0", ARCHITECTURE, ROI) | {"id": PACKAGE, "title": "Wide"}
    del content["locator"]
    return content


def write_wide(folder: Path) -> Path:
    """Write the package."""
    torch.manual_seed(SEED)
    image = np.random.default_rng(SEED).random((1, *ROI), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        write_package(build(*ARCHITECTURE).eval(), declared(), [image], "# wide\n", folder)
    return folder


def patients(site: str) -> list[str]:
    """Return who has a case at a site: nobody who is held back, since a stock site judges nothing."""
    named = (f"{site}-{number}" for number in itertools.count())
    return list(itertools.islice((one for one in named if not is_held_back(one, uid_of(site))), PATIENTS))


def cases(site: str) -> Iterator[Block]:
    """Yield the cases of a site."""
    return blocks(patients(site), sum(site.encode()))

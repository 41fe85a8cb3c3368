"""The package `tiny`, so small that a round takes seconds, and a consortium of it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from appliance.settings import Settings, load
from bench.blocks import blocks, keep_blocks
from bench.consortium import Consortium, Values
from models.networks import build
from models.packaging import write_package
from models.zoo.hippocampus_package import declaration

ARCHITECTURE = ("thin-unet", {"inputs": 1, "classes": 3, "channels": [4, 8], "down": [1, 1], "up": [1]})
ROI = (16, 16, 16)


def tiny_network() -> nn.Module:
    """Return an untrained network of a few thousand weights, always the same."""
    torch.manual_seed(1914)
    return build(*ARCHITECTURE).eval()


def declared(version: str = "0.1.0") -> dict[str, Any]:
    """Return what a version of `tiny` declares."""
    content = declaration(version, ARCHITECTURE, ROI) | {"id": "tiny", "title": "Tiny"}
    del content["locator"]
    return content


def write_tiny(folder: Path, network: nn.Module | None = None) -> Path:
    """Write the package `tiny`, of the untrained network unless another one is given."""
    image = np.random.default_rng(1).random((1, *ROI), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        write_package(network or tiny_network(), declared(), [image], "# tiny\n", folder)
    return folder


def keep_cases(settings: Settings, count: int, seed: int) -> None:
    """Keep made-up cases of `tiny`."""
    keep_blocks(settings, "tiny", blocks([f"{seed}-{number}" for number in range(count)], seed))


def tiny_consortium(folder: Path, sites: int, coordinator: Values, federation: Values) -> Consortium:
    """Return a consortium whose sites have joined, each with the package and a few cases."""
    names = [f"site-{number}" for number in range(1, sites + 1)]
    quick = {"round_timeout_s": 90, "straggler_s": 8, "gather_s": 20, **coordinator}
    made = Consortium(folder, "tiny", names, coordinator=quick, federation=federation)
    package = write_tiny(folder / "tiny")
    for party in (made.central, *made.sites):
        party.install(package)
    for number, site in enumerate(made.sites, start=1):
        keep_cases(load(site.file), 11 + number, number)
    made.invite_all()
    return made

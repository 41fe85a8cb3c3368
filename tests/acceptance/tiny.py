"""The package `tiny`, so small that a round takes seconds, and a consortium of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from appliance.catalogue import open_catalogue
from appliance.catalogue.connection import now
from appliance.settings import Settings, load
from appliance.volume import Volume
from bench.consortium import Consortium, Values
from models.networks import build
from models.packaging import write_package
from models.registry import Registry
from models.zoo.hippocampus_package import declaration
from workers.kept_cases import Told, keep

ARCHITECTURE = ("thin-unet", {"inputs": 1, "classes": 3, "channels": [4, 8], "down": [1, 1], "up": [1]})
ROI = (16, 16, 16)


def write_tiny(folder: Path) -> Path:
    """Write the package `tiny`: an untrained network of a few thousand weights."""
    torch.manual_seed(1914)
    declared = declaration("0.1.0", ARCHITECTURE, ROI) | {"id": "tiny", "title": "Tiny"}
    del declared["locator"]
    image = np.random.default_rng(1).random((1, *ROI), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        write_package(build(*ARCHITECTURE).eval(), declared, [image], "# tiny\n", folder)
    return folder


def keep_cases(settings: Settings, count: int, seed: int) -> None:
    """Keep made-up cases of `tiny`: a bright block is label 1, its upper half label 2."""
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    declared = Registry(settings, catalogue).load(Registry(settings, catalogue).versions("tiny")[0]).manifest
    random = np.random.default_rng(seed)
    for number in range(count):
        voxels = random.normal(100, 10, (20, 20, 20)).astype(np.float32)
        labels = np.zeros(voxels.shape, np.uint8)
        k, j, i = random.integers(3, 8, 3)
        labels[k : k + 8, j : j + 8, i : i + 8] = 1
        labels[k + 4 : k + 8, j : j + 8, i : i + 8] = 2
        voxels[labels > 0] += 100
        name = f"{seed}-{number}"
        told = Told("import", name, "", now(), "", name, name, "Phantom Works")
        keep(settings, catalogue, declared, Volume(voxels, np.eye(4)[[2, 1, 0, 3]], (), name, ""), labels, ("",), told)
    catalogue.close()


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

"""Made-up cases for tests and benchmarks of training: a bright block in noise is label 1, its upper half label 2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from appliance.catalogue import open_catalogue
from appliance.catalogue.connection import now
from appliance.settings import Settings
from appliance.volume import Volume
from models.registry import Registry
from workers.kept_cases import Told, keep

SIDE = 20  # voxels along each axis
EDGE = 8  # of a block
Block = tuple[str, Volume, NDArray[np.uint8]]


def blocks(patients: Iterable[str], seed: int) -> Iterator[Block]:
    """Yield patient, image and labels (k, j, i) of one case each."""
    random = np.random.default_rng(seed)
    for patient in patients:
        voxels = random.normal(100, 10, (SIDE, SIDE, SIDE)).astype(np.float32)
        labels = np.zeros(voxels.shape, np.uint8)
        k, j, i = random.integers(3, 8, 3)
        labels[k : k + EDGE, j : j + EDGE, i : i + EDGE] = 1
        labels[k + EDGE // 2 : k + EDGE, j : j + EDGE, i : i + EDGE] = 2
        voxels[labels > 0] += 100
        yield patient, Volume(voxels, np.eye(4)[[2, 1, 0, 3]], (), patient, ""), labels


def keep_blocks(settings: Settings, package: str, cases: Iterable[Block]) -> None:
    """Keep cases for the first installed version of a package."""
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    registry = Registry(settings, catalogue)
    declared = registry.load(registry.versions(package)[0]).manifest
    for patient, volume, labels in cases:
        told = Told("import", patient, "", now(), "", patient, patient, "Phantom Works")
        keep(settings, catalogue, declared, volume, labels, ("",), told)
    catalogue.close()

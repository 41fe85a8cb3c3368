"""The shipped package as the real small object, and a head to run it on: the synthetic image of its golden case."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.volume import Volume
from models.engines import Engine, Place, choose_engine
from models.package import Package, load_package
from models.parity import GoldenCase, golden_cases
from models.registry import ZOO

SHARED = Path(os.environ.get("CURIE_SHARED", Path(__file__).parents[3] / "shared"))
CROP = np.s_[1:-2, 2:-3, 3:]  # of the golden case, so that sizes are odd


def volume_of(voxels: np.ndarray, affine: np.ndarray) -> Volume:
    """Return a Volume without frames; `affine` maps (k, j, i) to LPS mm."""
    return Volume(voxels, affine, (), "1.2.3", "1.2.4", modality="MR")


@pytest.fixture(scope="session")
def shipped() -> Package:
    return load_package(ZOO / "brain-structures")


@pytest.fixture
def copied(shipped: Package, tmp_path: Path) -> Path:
    """A copy of the shipped package that a test may spoil."""
    return Path(shutil.copytree(shipped.folder, tmp_path / "package"))


@pytest.fixture(scope="session")
def engine(shipped: Package) -> Iterator[Engine]:
    chosen = choose_engine(shipped, ["openvino"], Place("cpu")).engine
    yield chosen
    chosen.close()


@pytest.fixture(scope="session")
def golden(shipped: Package) -> GoldenCase:
    return golden_cases(shipped)[0]


@pytest.fixture(scope="session")
def head(golden: GoldenCase) -> Volume:
    """The golden case's synthetic head at 2 mm, axes R-A-S, of odd size."""
    voxels = golden.image[0][CROP] * np.float32(700)
    return volume_of(voxels, np.diag([-2.0, -2.0, 2.0, 1.0]))

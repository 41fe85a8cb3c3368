"""The classifier tells made-up bleeds from made-up heads without, through the whole package and a real engine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from appliance.volume import Volume
from models.deciding import read
from models.engines import Engine, Place, choose_engine
from models.measure import measure
from models.package import Package
from models.registry import ZOO, shipped
from models.zoo.head_bleed import ROI, head

SPACING_MM = (5.0, 0.5, 0.5)


@pytest.fixture(scope="module")
def package() -> Package:
    return shipped(ZOO / "head-bleed")


@pytest.fixture(scope="module")
def engine(package: Package) -> Iterator[Engine]:
    chosen = choose_engine(package, ["openvino"], Place("cpu")).engine
    yield chosen
    chosen.close()


def study(seed: int, *, bleed: bool) -> Volume:
    """Return a made-up head CT of 14 slices of 0.5 mm pixels, three of them with blood where there is any."""
    random = torch.Generator().manual_seed(seed)
    planes = [head(random, ROI, bleed and n in (6, 7, 8))[0][0] * 100 for n in range(14)]
    fine = [
        torch.nn.functional.interpolate(one.T[None, None], scale_factor=5.0, mode="bilinear")[0, 0] for one in planes
    ]
    voxels = torch.stack(fine).flip(1).round().numpy().astype(np.int16)  # rows run backwards: towards posterior
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, :3] = np.array([[0, 0, -SPACING_MM[2]], [0, SPACING_MM[1], 0], [SPACING_MM[0], 0, 0]])
    return Volume(voxels, affine, (), "", "", modality="CT")


def test_blood_is_present_or_absent_in_most_made_up_studies(package: Package, engine: Engine) -> None:
    right = 0
    for seed in range(12):
        bleed = seed % 2 == 0
        volume = study(seed, bleed=bleed)
        (found,) = measure(read([[volume]], package, engine), [volume], package)
        assert found.probability is not None
        assert found.operating_point == package.manifest.outputs.threshold
        assert found.present == (found.probability >= found.operating_point)
        right += found.present == bleed
    assert right >= 10

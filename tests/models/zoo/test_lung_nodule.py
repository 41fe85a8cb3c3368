"""Made-up nodules of known size in a made-up chest: the largest is found; the card tells the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from appliance.volume import Volume
from models.deciding import read
from models.engines import Place, choose_engine
from models.measure import measure
from models.package import Package
from models.registry import ZOO, shipped
from models.synthesis import normal

SPACING_MM = (2.0, 1.0, 1.0)
SHAPE = (70, 170, 170)
NODULES = (((70.0, 60.0, 85.0), 5.0), ((40.0, 100.0, 60.0), 8.0), ((100.0, 90.0, 110.0), 12.0))  # mm (k, j, i), radius


@pytest.fixture(scope="module")
def package() -> Package:
    return shipped(ZOO / "lung-nodule")


def chest() -> Volume:
    """Return a made-up lung in its wall, with three balls in it."""
    random = torch.Generator().manual_seed(3)
    k, j, i = np.meshgrid(*(np.arange(n) * step for n, step in zip(SHAPE, SPACING_MM, strict=True)), indexing="ij")
    lung = ((j - 85) / 66) ** 2 + ((i - 85) / 66) ** 2 < 1
    hounsfield = np.where(lung, -860.0, 40.0)
    for (ck, cj, ci), radius in NODULES:
        away = np.sqrt((k - ck) ** 2 + (j - cj) ** 2 + (i - ci) ** 2)
        hounsfield = np.where(away < radius, 40.0, hounsfield)
    noisy = hounsfield + normal(random, *SHAPE).numpy() * 20
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = SPACING_MM[0], SPACING_MM[1], SPACING_MM[2], 1.0
    return Volume(noisy.round().astype(np.int16), affine, (), "", "", modality="CT")


def test_a_ball_of_known_size_is_a_candidate_of_about_that_size(package: Package) -> None:
    volume = chest()
    engine = choose_engine(package, ["openvino"], Place("cpu")).engine
    reading = read([[volume]], package, engine, mapped=True)
    engine.close()
    found = [one for one in measure(reading, [volume], package) if one.probability is not None]
    near = []
    for centre, radius in NODULES:
        place = tuple(round(mm / step) for mm, step in zip(centre, SPACING_MM, strict=True))
        label = int(reading.label_maps[0][place])
        near += [(radius, one) for one in found if one.segment_number == label]
    assert 12.0 in [radius for radius, _ in near]
    assert reading.probability is not None
    probable = [reading.probability[reading.label_maps[0] == one.segment_number].mean() / 255 for _, one in near]
    assert probable == pytest.approx([one.probability for _, one in near], abs=0.01)  # the score is the mean
    for radius, one in near:
        values = {m.name.meaning: m.value for m in one.measurements}
        assert values["Volume"] == pytest.approx(4 / 3 * math.pi * radius**3 / 1000, rel=0.5)
        assert values["Diameter"] == pytest.approx(2 * radius, abs=6)
    assert len(found) - len(near) <= 2

"""A made-up heart whose volumes are known: the package's ejection fraction and volumes come near to them."""

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
from models.zoo.cardiac_lv import blurred, smooth

SPACING_MM = (8.0, 1.5, 1.5)
SLICES, SIZE = 8, 176
HALF_LENGTH_MM = 40.0


@pytest.fixture(scope="module")
def package() -> Package:
    return shipped(ZOO / "cardiac-lv")


def radius_mm(height_mm: float, widest_mm: float) -> float:
    """Return the radius of an ellipsoid at a height from its middle."""
    return widest_mm * math.sqrt(max(0.0, 1 - (height_mm / HALF_LENGTH_MM) ** 2))


def heart(widest_mm: float, random: torch.Generator) -> np.ndarray:
    """Return one moment (k, j, i): a bright ellipsoid in a dark shell, a second bright cavity beside it."""
    y, x = torch.meshgrid(*(torch.arange(SIZE, dtype=torch.float32) - SIZE / 2 for _ in range(2)), indexing="ij")
    planes = []
    for k in range(SLICES):
        inner = radius_mm((k - (SLICES - 1) / 2) * SPACING_MM[0], widest_mm) / SPACING_MM[1]
        outer = math.sqrt(inner**2 + 200)
        image = 250 + 40 * smooth(random, (SIZE, SIZE), 8)
        image = torch.where(torch.hypot(x + 30, y - 4) < 15, 800.0, image)
        image = torch.where(torch.hypot(x, y) < outer, 230.0, image)
        image = torch.where(torch.hypot(x, y) < inner, 850.0, image)
        planes.append(blurred(image, 0.8) + 15 * normal(random, SIZE, SIZE))
    return torch.stack(planes).numpy()


def truth_ml(widest_mm: float) -> float:
    """Return the volume of the slices of the ellipsoid."""
    heights = [(k - (SLICES - 1) / 2) * SPACING_MM[0] for k in range(SLICES)]
    return sum(math.pi * radius_mm(h, widest_mm) ** 2 for h in heights) * SPACING_MM[0] / 1000


def test_a_made_up_beat_has_about_its_volumes_and_ejection_fraction(package: Package) -> None:
    random = torch.Generator().manual_seed(11)
    widths = (26.0, 23.0, 19.0, 22.0)
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, :3] = np.array([[0, 0, SPACING_MM[2]], [0, SPACING_MM[1], 0], [SPACING_MM[0], 0, 0]])
    volumes = [
        Volume(heart(width, random), affine, (), "", "", modality="MR", time_ms=40.0 * n)
        for n, width in enumerate(widths)
    ]
    engine = choose_engine(package, ["openvino"], Place("cpu")).engine
    found = measure(read([[one] for one in volumes], package, engine), volumes, package)
    engine.close()
    values = {m.name.meaning: m.value for one in found for m in one.measurements}
    largest, smallest = truth_ml(26.0), truth_ml(19.0)
    assert values["Left Ventricular End Diastolic Volume"] == pytest.approx(largest, rel=0.2)
    assert values["Left Ventricular End Systolic Volume"] == pytest.approx(smallest, rel=0.25)
    assert values["Cardiac ejection fraction"] == pytest.approx(100 * (largest - smallest) / largest, abs=8)

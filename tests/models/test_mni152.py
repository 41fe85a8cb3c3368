"""The floors of the shipped package on the MNI152 template against the template's own tissue maps.

mni_not_cerebrum.npz marks the template's voxels that brainchop's 18-structure model calls cerebellum or brain stem;
`python -m models.zoo.brain_structures evaluate` computes them anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.deciding import read
from models.engines import Engine
from models.package import Package
from models.parity import dice_of
from models.zoo.brain_structures_evaluation import GM, GREY, T1, WHITE, WM, islands
from models.zoo.yardsticks import read_nifti
from tests.models.conftest import SHARED

MNI = SHARED / "data" / "mni152_tissue"
WHITE_FLOOR, GREY_FLOOR = 0.75, 0.65

pytestmark = pytest.mark.skipif(not MNI.is_dir(), reason=f"the MNI152 template is not in {MNI}")


@pytest.fixture(scope="module")
def cerebrum() -> np.ndarray:
    """Where cerebellum and brain stem are not."""
    stored = np.load(Path(__file__).with_name("mni_not_cerebrum.npz"))
    shape = tuple(stored["shape"].tolist())
    return np.unpackbits(stored["bits"], count=int(np.prod(shape))).reshape(shape) == 0


@pytest.fixture(scope="module")
def labels(shipped: Package, engine: Engine) -> np.ndarray:
    return read([[read_nifti(MNI / T1)]], shipped, engine).label_maps[0]


@pytest.mark.parametrize(("path", "classes", "floor"), [(WM, WHITE, WHITE_FLOOR), (GM, GREY, GREY_FLOOR)])
def test_tissue_agrees_with_the_templates_own_maps(
    labels: np.ndarray, cerebrum: np.ndarray, path: str, classes: tuple[int, ...], floor: float
) -> None:
    share = read_nifti(MNI / path).voxels
    assert dice_of(np.isin(labels, classes) & cerebrum, (share > 0.5 * share.max()) & cerebrum) >= floor


def test_nothing_is_found_outside_the_head(labels: np.ndarray) -> None:
    assert islands(labels, read_nifti(MNI / T1).voxels > 0) == 0

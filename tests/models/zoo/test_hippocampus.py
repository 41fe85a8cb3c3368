"""The floor of `hippocampus` on the 40 crops that were held back, and its made-up crop of known volume."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.volume import Volume
from models.deciding import read
from models.engines import Place, choose_engine
from models.engines.torch import trained_network
from models.measure import measure
from models.package import Package
from models.registry import ZOO, shipped
from models.zoo.brain_structures_package import declaration as located_by
from models.zoo.hippocampus import HELD_BACK, dice_on, phantom, read_crops
from models.zoo.hippocampus_package import LOCATOR
from tests.models.conftest import SHARED

ARCHIVE = SHARED / "data" / "mr_hippocampus_decathlon.tar.xz"
FLOOR = 0.865


@pytest.fixture(scope="module")
def package() -> Package:
    return shipped(ZOO / "hippocampus")


@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"the crops are not in {ARCHIVE}")
def test_the_held_back_crops_agree_with_the_experts(package: Package, tmp_path_factory: pytest.TempPathFactory) -> None:
    import tarfile

    folder = tmp_path_factory.mktemp("crops")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    (images,) = folder.rglob("images")
    dice = dice_on(trained_network(package).eval(), read_crops(images.parent)[-HELD_BACK:])
    assert sum(dice.values()) / 2 >= FLOOR
    assert min(dice.values()) >= FLOOR - 0.02


def test_a_made_up_crop_gets_about_its_volume(package: Package) -> None:
    image, labels = phantom(7)
    voxels = image[0].numpy().transpose(2, 1, 0) * 900  # (z, y, x)
    affine = np.array([[0, 0, -1.0, 0], [0, -1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1.0]])  # towards S, A, R
    volume = Volume(voxels, affine, (), "", "", modality="MR")
    engine = choose_engine(package, ["openvino"], Place("cpu")).engine
    found = measure(read([[volume]], package, engine), [volume], package)
    engine.close()
    truth = float((labels > 0).sum()) / 1000
    assert sum(one.measurements[0].value for one in found) == pytest.approx(truth, rel=0.25)


def test_its_locator_is_the_shipped_version() -> None:
    brain = shipped(ZOO / "brain-structures")
    assert brain.name == LOCATOR
    assert located_by(brain.version, ("thin-unet", {}), (72, 88, 72))["id"] == brain.id

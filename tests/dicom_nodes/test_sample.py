"""The sample study is the template, where it is and as bright as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from appliance.candidates import unsuitable
from dicom_nodes.offline import summarise
from dicom_nodes.sample import template_axial, write_sample
from dicom_nodes.volume_reader import read_volume
from models.registry import ZOO, shipped


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_sample(tmp_path_factory.mktemp("sample"))


def test_the_series_reads_back_as_the_template(files: list[Path]) -> None:
    voxels, affine = template_axial("t1")
    volume = read_volume(files)
    assert np.allclose(volume.affine, affine)
    assert np.abs(volume.voxels / volume.voxels.max() - voxels / voxels.max()).max() < 0.001


def test_tissue_maps_are_probabilities_of_a_brains_size() -> None:
    white, grey = (template_axial(kind)[0] for kind in ("wm", "gm"))
    assert 0.9 < white.max() <= 1
    assert 300 < (white > 0.5).sum() / 1000 < 900, "ml"
    assert 500 < (grey > 0.5).sum() / 1000 < 1300, "ml"


def test_the_shipped_package_takes_it(files: list[Path]) -> None:
    (study,) = summarise(files)
    assert unsuitable(study.series[0], shipped(ZOO / "brain-structures").requirements["head"]) == ""


def test_another_key_is_another_study(tmp_path: Path, files: list[Path]) -> None:
    (one,) = summarise(files[:3])
    (other,) = summarise(write_sample(tmp_path, "other")[:3])
    assert one.study_instance_uid != other.study_instance_uid
    assert one.series[0].instances != other.series[0].instances

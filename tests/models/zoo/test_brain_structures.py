"""The recipe runs from label maps to a checkpoint, and what it declares is complete."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from models.declaration import Declaration
from models.zoo.brain_structures import ARCHITECTURE, CLASSES, PLAIN, ROI, drawer, prepare
from models.zoo.brain_structures_labels import read_labels, tissues
from models.zoo.brain_structures_package import declaration
from tests.models.conftest import SHARED

MAPS = SHARED / "data" / "brain_labels_2mm"


def test_the_declaration_is_valid_and_every_class_has_a_segment() -> None:
    declared = Declaration.model_validate_json(json.dumps(declaration("1.2.3", ARCHITECTURE, ROI)))
    assert len(declared.outputs.segments) == CLASSES - 1
    assert set(tissues().classes) == set(range(CLASSES))
    assert len({segment.rgb for segment in declared.outputs.segments}) == CLASSES - 1


def test_label_maps_are_read_in_right_anterior_superior_order_with_or_without_nifti(tmp_path: Path) -> None:
    numbers = np.zeros((4, 5, 6), np.uint16)
    numbers[0, 0, 0] = 17  # at the left, top, front of a map with axes L-I-A … see affine
    affine = np.array([[-2, 0, 0, 0], [0, 0, 2, 0], [0, -2, 0, 0], [0, 0, 0, 1]], float)
    nibabel.save(nibabel.Nifti1Image(numbers, affine), tmp_path / "seg_01.nii.gz")
    (labels,) = read_labels(tmp_path)
    assert labels.shape == (4, 6, 5)
    assert np.argwhere(labels.numpy()).tolist() == [[3, 0, 4]]  # right, posterior, superior
    prepare(tmp_path, tmp_path / "out")
    (again,) = read_labels(tmp_path / "out")
    assert torch.equal(labels, again)


def test_a_folder_without_maps_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="seg_"):
        read_labels(tmp_path)


@pytest.mark.skipif(not MAPS.is_dir(), reason=f"the label maps are not in {MAPS}")
def test_every_label_of_the_real_maps_has_a_tissue_and_a_sample_shows_every_class() -> None:
    maps = read_labels(MAPS)
    assert len(maps) == 20
    _, classes = drawer(maps[:1], PLAIN)(torch.Generator().manual_seed(0), ROI)
    assert set(classes.unique().tolist()) == set(range(CLASSES))

"""Boxes lie where the regions say, in whatever order and direction the axes of the volume run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from appliance.errors import StudyUnsuitable
from models.inputs import Locator
from models.locating import located_boxes
from tests.models.conftest import volume_of

LOCATOR = Locator.model_validate(
    {
        "package": "brain-structures@1.0.0",
        "segments": [1, 2],
        "min_volume_ml": 5.0,
        "above_extent_mm": 50.0,
        "regions": [
            {"name": "left", "low": [0.0, 0.5, 0.0], "high": [0.5, 1.0, 0.5]},
            {"name": "right", "low": [0.5, 0.5, 0.0], "high": [1.0, 1.0, 0.5]},
        ],
    }
)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
def test_a_region_is_on_its_side_of_the_patient(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * signs * 2.0
    volume = volume_of(np.zeros((40, 40, 40), np.float32), affine)
    labels = np.zeros(volume.shape, np.uint8)
    labels[10:30, 12:28, 8:32] = 2
    boxes = located_boxes(labels, volume, LOCATOR)
    centres = {}
    for name, box in boxes.items():
        middle = [(side.start + side.stop - 1) / 2 for side in box]
        centres[name] = affine @ [*middle, 1.0]
    brain = affine @ [19.5, 19.5, 19.5, 1.0]
    assert centres["left"][0] > brain[0] > centres["right"][0]  # LPS: x grows to the patient's left
    for centre in centres.values():
        assert centre[1] < brain[1]  # anterior
        assert centre[2] < brain[2]  # inferior
    sizes = [side.stop - side.start for side in boxes["left"]]
    assert sorted(sizes) == sorted([10, 8, 12])


def test_stray_voxels_do_not_move_the_box() -> None:
    volume = volume_of(np.zeros((60, 60, 60), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    labels = np.zeros(volume.shape, np.uint8)
    labels[20:40, 20:40, 20:40] = 1
    clean = located_boxes(labels, volume, LOCATOR)
    labels[0, 0, :30] = 1
    assert located_boxes(labels, volume, LOCATOR) == clean


def test_a_region_is_cut_at_the_edge_of_the_volume() -> None:
    wide = LOCATOR.model_copy(update={"regions": (LOCATOR.regions[0].model_copy(update={"low": (-3.0, -3.0, -3.0)}),)})
    volume = volume_of(np.zeros((30, 30, 30), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    labels = np.ones(volume.shape, np.uint8)
    (box,) = located_boxes(labels, volume, wide).values()
    assert all(0 <= side.start < side.stop <= 30 for side in box)


def test_too_little_found_is_unsuitable_with_both_volumes() -> None:
    volume = volume_of(np.zeros((30, 30, 30), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    labels = np.zeros(volume.shape, np.uint8)
    labels[3:10, 3:10, 3:10] = 1
    with pytest.raises(StudyUnsuitable, match=r"found 3 ml.*at least 5 ml"):
        located_boxes(labels, volume, LOCATOR)


def test_a_crop_is_read_whole() -> None:
    assert LOCATOR.is_needed(volume_of(np.zeros((60, 60, 60)), np.eye(4)))
    assert not LOCATOR.is_needed(volume_of(np.zeros((60, 60, 40)), np.eye(4)))

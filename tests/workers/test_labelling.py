"""Whose structure a segment is: by tracking UID, name, or code and side; and what is cut out where a package looks."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.errors import ResultRejected
from appliance.volume import Volume
from dicom_nodes.label_objects import Structure
from models.registry import ZOO, shipped
from workers.labelling import (
    MARGIN_MM,
    Wanted,
    check_complete,
    complete_regions,
    labels_of,
    pieces,
    regions_of,
    wanted,
    why_not_trainable,
)

HIPPOCAMPUS = shipped(ZOO / "hippocampus").manifest
BRAIN = shipped(ZOO / "brain-structures").manifest
SIDES = ("left", "right")
LEFT, RIGHT = "7771000", "24028007"


def volume_of(*shape: int) -> Volume:
    affine = np.array([[0.0, 0, 1, -50], [0, 1, 0, -60], [2, 0, 0, -70], [0, 0, 0, 1]])
    return Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), affine, (), "1.2", "1.3")


def named(number: int, name: str, code: tuple[str, str] | None = None, side: str = "", uid: str = "") -> Structure:
    return Structure(number, name, code, side, uid)


def test_a_crop_has_no_sides_and_a_head_has() -> None:
    assert regions_of(HIPPOCAMPUS, volume_of(20, 40, 40)) == ("",)
    assert regions_of(HIPPOCAMPUS, volume_of(60, 120, 120)) == SIDES
    assert [one.name for one in wanted(HIPPOCAMPUS, SIDES)] == [
        "Left anterior hippocampus", "Left posterior hippocampus", "Right anterior hippocampus",
        "Right posterior hippocampus",
    ]  # fmt: skip
    assert [one.label for one in wanted(HIPPOCAMPUS, SIDES)] == [1, 2, 3, 4]


def test_structures_are_known_by_uid_name_or_code_and_side() -> None:
    known = wanted(HIPPOCAMPUS, SIDES)
    given = [
        named(1, "whatever", uid="2.25.1"), named(2, "LEFT_posterior  Hippocampus"), named(3, "Tumour"),
        named(0, "Right anterior hippocampus"),
    ]  # fmt: skip
    assert labels_of(given, known, {"2.25.1": 3}) == {1: 3, 2: 2}
    code = ("66720007", "SCT")
    pair = [Wanted(1, "Left ventricle", code, LEFT), Wanted(2, "Right ventricle", code, RIGHT)]
    assert labels_of([named(1, "x", code, RIGHT), named(2, "y", code, LEFT), named(3, "z", code)], pair) == {1: 2, 2: 1}


def test_a_code_that_several_structures_have_names_none() -> None:
    assert labels_of([named(1, "x", ("5366008", "SCT"), LEFT)], wanted(HIPPOCAMPUS, SIDES)) == {}


def test_a_side_may_be_missing_as_a_whole_and_a_structure_may_not() -> None:
    known = wanted(HIPPOCAMPUS, SIDES)
    check_complete({1, 2}, complete_regions({1, 2}, known))
    with pytest.raises(ResultRejected, match=r"Left posterior hippocampus is \(1 of 2"):
        check_complete({1}, complete_regions({1}, known))
    with pytest.raises(ResultRejected, match="none of its structures"):
        complete_regions(set(), known)


def test_each_side_becomes_a_case_of_its_own_with_the_package_s_numbers() -> None:
    volume = volume_of(60, 120, 120)
    labels = np.zeros(volume.shape, np.uint8)
    labels[20:24, 50:60, 80:84], labels[20:24, 60:64, 80:84] = 1, 2
    labels[0:2, 50:60, 30:34] = 4
    left, right = pieces(volume, labels, HIPPOCAMPUS, SIDES)
    assert (left.region, right.region) == SIDES
    assert set(np.unique(left.labels)) == {0, 1, 2}
    assert set(np.unique(right.labels)) == {0, 2}
    k, j, i = (round(MARGIN_MM / spacing) for spacing in volume.spacing_mm)
    assert left.labels.shape == (4 + 2 * k, 14 + 2 * j, 4 + 2 * i)
    first = np.array([20 - k, 50 - j, 80 - i])
    assert np.allclose(left.volume.affine @ (0, 0, 0, 1), volume.affine @ (*first, 1))
    assert left.volume.voxels[0, 0, 0] == volume.voxels[tuple(first)]
    assert right.labels.shape[0] == 2 + k


def test_packages_of_which_no_case_can_be_kept_say_why() -> None:
    assert [why_not_trainable(one) for one in (HIPPOCAMPUS, BRAIN)] == ["", ""]
    said = [why_not_trainable(shipped(ZOO / name).manifest) for name in ("lung-nodule", "brain-tumour", "head-bleed")]
    assert all("is not trained here" in one for one in said)

"""Stacks from planes: right order and affine, or a sentence that says what is wrong and how much."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from appliance.errors import StudyUnsuitable
from appliance.geometry import over_time, stack
from appliance.study import FrameGeometry

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def planes(count: int = 6, spacing: float = 2.0) -> list[FrameGeometry]:
    """Return an axial stack of 8 rows × 10 columns, 0.5 mm between rows, 0.7 between columns."""
    return [FrameGeometry(f"1.2.{k}", 8, 10, (-5.0, 3.0, 1.0 + k * spacing), AXIAL, (0.5, 0.7)) for k in range(count)]


def moved(plane: FrameGeometry, *by: float) -> FrameGeometry:
    assert plane.position is not None
    x, y, z = (a + b for a, b in zip(plane.position, by, strict=True))
    return replace(plane, position=(x, y, z))


def test_order_and_affine_do_not_depend_on_the_order_given() -> None:
    shuffled = [planes()[n] for n in (3, 0, 5, 1, 4, 2)]
    found = stack(shuffled)
    assert found.order == (1, 3, 5, 0, 4, 2)
    assert np.allclose(found.affine @ (2, 3, 4, 1), (-5 + 4 * 0.7, 3 + 3 * 0.5, 1 + 2 * 2.0, 1))
    assert found.slice_spacing_mm == pytest.approx(2.0)
    assert found.pixel_spacing_mm == (0.5, 0.7)
    assert found.extent_mm == pytest.approx((12.0, 4.0, 7.0))


def test_sagittal_affine_is_right_handed_along_row_column_normal() -> None:
    sagittal = [FrameGeometry(f"1.{k}", 4, 4, (10.0 - k * 1.2, -90.0, 80.0), SAGITTAL, (1.0, 1.0)) for k in range(4)]
    found = stack(sagittal)
    k, j, i = found.affine[:3, :3].T
    assert np.cross(i, j) @ k > 0
    assert np.allclose(found.affine @ (0, 2, 1, 1), (*(10.0, -89.0, 78.0), 1))
    assert found.order == (0, 1, 2, 3)


def test_rounded_headers_are_accepted() -> None:
    turn = math.radians(11)
    cosines = (round(math.cos(turn), 4), round(math.sin(turn), 4), 0.0)
    odd = [
        replace(moved(p, 0, 0, 0.01 * (k % 2)), orientation=(*cosines, -cosines[1], cosines[0], 0.0))
        for k, p in enumerate(planes())
    ]
    assert len(stack(odd).order) == 6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda _: [], "holds no image"),
        (lambda p: p[:1], "1 image, at least 2 slices are needed"),
        (lambda p: [replace(p[0], position=None), *p[1:]], "1 image of 6 cannot be placed.*no position"),
        (lambda p: [replace(x, orientation=None) for x in p], "6 images of 6 cannot be placed"),
        (lambda p: [replace(p[0], problem="Rows is text"), *p[1:]], "Rows is text"),
        (lambda p: [replace(p[0], pixel_spacing=None), *p[1:]], "no pixel spacing"),
        (lambda p: [replace(p[0], pixel_spacing=(math.nan, 1.0)), *p[1:]], "not a positive number"),
        (lambda p: [replace(p[0], pixel_spacing=(0.0, 1.0)), *p[1:]], "not a positive number"),
        (lambda p: [replace(p[0], pixel_spacing=(math.inf, 1.0)), *p[1:]], "not a positive number"),
        (lambda p: [replace(p[0], position=(math.nan, 0, 0)), *p[1:]], "is not a number"),
        (lambda p: [replace(p[0], orientation=(1, 0, 0, 1, 0, 0)), *p[1:]], "right angles"),
        (lambda p: [replace(p[0], rows=0), *p[1:]], "no rows"),
        (lambda p: [*p[:5], replace(p[5], orientation=SAGITTAL)], "1 image of 6 are turned|turned against"),
        (lambda p: [*p[:5], replace(p[5], rows=9)], r"2 sizes in one series \(5 of 8×10, 1 of 9×10\)"),
        (lambda p: [*p[:5], replace(p[5], pixel_spacing=(0.5, 0.8))], "another pixel spacing"),
        (lambda p: [*p, replace(p[2], sop_instance_uid="9")], "7 images at 6 places"),
        (lambda p: [p[0], *p[3:]], r"2 slices are missing \(a gap of 6.0 mm where slices are 2.0 mm apart\)"),
        (lambda p: [*p[:2], *p[3:]], "1 slice is missing"),
        (lambda p: [*p[:5], moved(p[5], 0, 0, 0.4)], "not evenly spaced.*2.00 to 2.40"),
        (lambda p: [moved(x, 0, 0.1 * k, 0) for k, x in enumerate(p)], "sheared by 2.9° .gantry tilt"),
        (lambda p: [*p[:2], moved(p[2], 0.5, 0, 0), *p[3:]], "1 image of 6 are shifted|shifted sideways"),
    ],
)
def test_a_stack_that_is_none_is_refused_in_one_sentence(change: object, sentence: str) -> None:
    with pytest.raises(StudyUnsuitable, match=sentence):
        stack(change(planes()))  # type: ignore[operator]


def test_temporal_positions_are_named() -> None:
    cine = [replace(p, temporal_position=str(t)) for t in range(3) for p in planes()]
    with pytest.raises(StudyUnsuitable, match="18 images at 6 places, 3 temporal positions"):
        stack(cine)


def test_min_slices() -> None:
    with pytest.raises(StudyUnsuitable, match="6 images, at least 10 slices"):
        stack(planes(), min_slices=10)


def beating(times: int = 3) -> list[FrameGeometry]:
    """Return the planes of several moments; each place has trigger times of its own, as breath-holds do."""
    return [replace(p, temporal_position=str(40.0 * t + k)) for k, p in enumerate(planes()) for t in range(times)]


def test_moments_are_in_the_order_of_time_at_each_place() -> None:
    given = beating()[::-1]
    stacks = over_time(given)
    assert len(stacks) == 3
    for t, found in enumerate(stacks):
        chosen = [given[n] for n in found.order]
        assert [p.sop_instance_uid for p in chosen] == [f"1.2.{k}" for k in range(6)]
        assert [float(p.temporal_position) for p in chosen] == [40.0 * t + k for k in range(6)]
        assert np.allclose(found.affine, stacks[0].affine)


def test_one_moment_is_a_sequence_of_one() -> None:
    assert [one.order for one in over_time(planes())] == [stack(planes()).order]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p[:-1], "the places of the series hold 2 to 3 images over time"),
        (lambda p: [replace(x, temporal_position="") for x in p], "do not say when they were taken"),
        (lambda p: [replace(x, temporal_position="early") for x in p], "do not say when they were taken"),
        (lambda p: [replace(x, temporal_position="1") for x in p], "at one place at one time"),
    ],
)
def test_moments_that_cannot_be_told_apart_are_said(change: object, sentence: str) -> None:
    with pytest.raises(StudyUnsuitable, match=sentence):
        over_time(change(beating()))  # type: ignore[operator]


def test_too_few_moments_are_said() -> None:
    with pytest.raises(StudyUnsuitable, match="3 volumes over time, at least 10 are needed"):
        over_time(beating(), min_volumes=10)

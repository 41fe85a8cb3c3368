"""What is a gap in a series, and what only looks like one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from appliance.gaps import SeriesPlaces, gap_of
from appliance.study import FrameGeometry

AXIAL, CORONAL = (1.0, 0, 0, 0, 1, 0), (1.0, 0, 0, 0, 0, -1)


def planes(
    places: Sequence[float], orientation: tuple[float, ...] = AXIAL, frame: int | None = None
) -> list[FrameGeometry]:
    axis = 2 if orientation is AXIAL else 1
    found = []
    for place in places:
        position = [0.0, 0.0, 0.0]
        position[axis] = place
        found.append(FrameGeometry("1", 8, 8, (position[0], position[1], position[2]), orientation, (1, 1), 1, frame))
    return found


@pytest.mark.parametrize(
    ("numbers", "gap"),
    [
        ((), False),
        ((1,), False),
        ((1, 9), False),
        ((1, 2, 3, 4), False),
        ((3, 1, 2, 2, 1), False),
        ((1, 2, 4), True),
        ((1, 2, 3, 5, 6), True),
        ((2, 4, 6, 8), False),
        ((2, 4, 6, 10), True),
        ((7, 8, 9), False),
    ],
)
def test_instance_numbers(numbers: tuple[int, ...], gap: bool) -> None:
    found = gap_of([SeriesPlaces(), SeriesPlaces(numbers)])
    assert bool(found) is gap
    assert not found or "instance numbers" in found


@pytest.mark.parametrize(
    ("places", "gap"),
    [
        ((0, 3, 6, 9), False),
        ((9, 0, 6, 3, 3, 6), False),  # two images at a place
        ((0, 3, 9, 12), True),
        ((0, 3, 7, 10), False),  # a step of less than 1.5 times the median
        ((-10, -5.001, 0.001, 5), False),
    ],
)
def test_slice_positions(places: tuple[float, ...], gap: bool) -> None:
    found = gap_of([SeriesPlaces(planes=planes(places))])
    assert bool(found) is gap
    assert not found or "slice positions" in found


def test_each_orientation_is_a_stack_of_its_own() -> None:
    scout = planes((0, 50, 100)) + planes((0, 3, 6), CORONAL)
    assert gap_of([SeriesPlaces(planes=scout)]) == ""


def test_frames_of_one_instance_are_all_here() -> None:
    assert gap_of([SeriesPlaces(planes=planes((0, 3, 9, 12), frame=1))]) == ""


def test_planes_without_a_place_say_nothing() -> None:
    plane = FrameGeometry("1", 8, 8, None, None, None)
    assert gap_of([SeriesPlaces(planes=[plane] * 3)]) == ""

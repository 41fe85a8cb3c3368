"""Outlines: where the pixels are, closed, filled, largest first."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_nodes.contours import Mask, area, outlines


def disc(radius: float, middle: tuple[float, float] = (32, 32), side: int = 64) -> Mask:
    rows, columns = np.ogrid[:side, :side]
    found: Mask = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < radius**2
    return found


def test_a_rectangle_lies_between_the_outer_corners_of_its_pixels() -> None:
    mask = np.zeros((20, 30), bool)
    mask[3:9, 10:25] = True
    (ring,) = outlines(mask)
    assert ring.min(axis=0) == pytest.approx([10, 3])  # (column, row)
    assert ring.max(axis=0) == pytest.approx([25, 9])
    assert np.array_equal(ring[0], ring[-1])


@pytest.mark.parametrize("radius", [5, 10, 25])
def test_area_is_that_of_the_mask(radius: float) -> None:
    mask = disc(radius)
    assert area(outlines(mask)[0]) == pytest.approx(mask.sum(), rel=0.03)


def test_holes_are_filled_and_islands_in_them_left_out() -> None:
    mask = (disc(25) & ~disc(12)) | disc(4)
    rings = outlines(mask)
    assert len(rings) == 1
    assert area(rings[0]) == pytest.approx(disc(25).sum(), rel=0.03)


def test_parts_come_largest_first() -> None:
    rings = outlines(disc(6, (10, 50)) | disc(12, (40, 20)) | disc(3, (55, 55)))
    assert [round(area(ring)) for ring in rings] == sorted((round(area(ring)) for ring in rings), reverse=True)
    assert rings[0].mean(axis=0) == pytest.approx([20.5, 40.5], abs=0.5)
    assert len(rings) == 3


def test_the_whole_image_and_the_edge_are_closed() -> None:
    (ring,) = outlines(np.ones((8, 6), bool))
    assert (ring.min(), ring[:, 0].max(), ring[:, 1].max()) == (0, 6, 8)
    assert np.array_equal(ring[0], ring[-1])


def test_a_single_pixel_has_an_outline_around_its_centre() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2, 5] = True
    (ring,) = outlines(mask)
    assert ring[:-1].mean(axis=0) == pytest.approx([5.5, 2.5])


def test_nothing_has_none() -> None:
    assert outlines(np.zeros((8, 8), bool)) == []

"""Polygons along voxel edges: exact in area, holes cut in, parts that touch in a corner kept apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from dicom_nodes.voxel_edges import Mask, Ring, edges, keyholed, signed_area


def filled(ring: Ring, shape: tuple[int, int]) -> Mask:
    """Return the pixels whose centres a polygon encloses, by the even-odd rule."""
    row, column = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for (r0, c0), (r1, c1) in zip(ring, np.roll(ring, -1, 0), strict=True):
        if r0 != r1:
            crossed = ((r0 > row) != (r1 > row)) & (column < c0 + (row - r0) * (c1 - c0) / (r1 - r0))
            inside ^= crossed
    return inside


@pytest.mark.parametrize("seed", range(6))
def test_polygons_are_the_mask_exactly(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((23, 31)) < (0.3, 0.5, 0.6, 0.75, 0.9, 0.55)[seed]
    rings = keyholed(mask)
    assert len(rings) == ndimage.label(mask)[1]
    assert sum(signed_area(ring) for ring in rings) == mask.sum()
    together = np.zeros(mask.shape, bool)
    for ring in rings:
        together ^= filled(ring, mask.shape)
    assert np.array_equal(together, mask)


def test_a_ring_has_one_polygon_and_a_square_has_four_corners() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2:8, 2:8] = True
    (square,) = keyholed(mask)
    assert len(square) == 4
    mask[4:6, 4:6] = False
    assert sorted(signed_area(ring) for ring in edges(mask)) == [-4, 36]
    (ring,) = keyholed(mask)
    assert signed_area(ring) == 32
    assert keyholed(mask & False) == []


def test_an_island_within_a_hole_is_a_part_of_its_own() -> None:
    mask = np.zeros((11, 11), bool)
    mask[1:10, 1:10] = True
    mask[3:8, 3:8] = False
    mask[5, 5] = True
    assert [signed_area(ring) for ring in keyholed(mask)] == [81 - 25, 1]

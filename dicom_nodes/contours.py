"""Outlines of a segment in one slice, for the eyes: closed polygons around its filled parts.

Coordinates are (column, row) as SCOORD has them (PS3.3 C.18.6.1.2): 0\\0 is the outer corner of the first pixel,
Columns\\Rows the outer corner of the last, so that the centre of pixel (row r, column c) lies at c + 0.5, r + 0.5.
This module must never be used to measure: numbers come from voxels, an outline only shows where they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from contourpy import LineType, contour_generator

Polygon = npt.NDArray[np.float64]  # (n, 2) of (column, row); the last point is the first
Mask = npt.NDArray[np.bool_]
HALF = 0.5  # level between outside (0) and inside (1)
PIXEL_CENTRE = 0.5


def outlines(mask: Mask) -> list[Polygon]:
    """Return the outer polygon of each part of a mask (rows, columns), holes filled, largest first."""
    box = _bounding_box(mask)
    if box is None:
        return []
    top, left = box[0].start, box[1].start
    framed = np.pad(mask[box].astype(np.float32), 1)  # so that parts at the edge are closed
    lines = contour_generator(z=framed, line_type=LineType.Separate).lines(HALF)
    offset = np.array([left, top]) - 1 + PIXEL_CENTRE
    rings = sorted((_without_midpoints(np.asarray(line)) for line in lines), key=lambda ring: -area(ring))
    return [ring + offset for n, ring in enumerate(rings) if not any(_inside(ring[0], one) for one in rings[:n])]


def area(ring: Polygon) -> float:
    """Return the area that a closed polygon encloses, in pixels."""
    x, y = ring[:, 0], ring[:, 1]
    return float(abs(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def _bounding_box(mask: Mask) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _without_midpoints(ring: Polygon) -> Polygon:
    """Drop points on the straight line between their neighbours."""
    points = ring[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    corners = points[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9]
    return np.vstack([corners, corners[:1]])


def _inside(point: Polygon, ring: Polygon) -> bool:
    """Tell whether a point lies within a closed polygon, by the edges a ray from it crosses."""
    (x, y), (x0, y0), (x1, y1) = point, ring[:-1].T, ring[1:].T
    crossed = (y0 > y) != (y1 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return bool((crossed & (x < at)).sum() % 2)

"""Polygons along the edges of a mask's pixels: exact in area, holes joined to their outer polygon by a keyhole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.int64]  # (n, 2) of (row, column) corners, pixel (r, c) having corners r…r+1, c…c+1; not repeated
Mask = npt.NDArray[np.bool_]
Corner = tuple[int, int]


def keyholed(mask: Mask) -> list[Ring]:
    """Return one polygon for each part of a mask (rows, columns), its holes cut in, the largest first."""
    rings = edges(mask)
    outer = sorted((ring for ring in rings if signed_area(ring) > 0), key=lambda ring: -signed_area(ring))
    holes = [ring for ring in rings if signed_area(ring) < 0]
    found = []
    for ring in reversed(outer):  # the smallest part that holds a hole is the one it lies in
        mine = [hole for hole in holes if _holds(ring, hole)]
        holes = [hole for hole in holes if not any(hole is one for one in mine)]
        found.append(_cut_in(ring, mine))
    return found[::-1]


def edges(mask: Mask) -> list[Ring]:
    """Return all closed lines between a mask and the rest; outer ones with positive area, holes with negative."""
    padded = np.pad(mask, 1)
    following: dict[Corner, list[Corner]] = {}
    for change, step in (((1, 0), (0, 1)), ((-1, 0), (0, -1)), ((0, 1), (-1, 0)), ((0, -1), (1, 0))):
        beside = np.roll(padded, (change[0], change[1]), (0, 1))  # the neighbour that lies against `change`
        for row, column in np.argwhere(padded & ~beside) - 1:
            start = _start(int(row), int(column), change)
            following.setdefault(start, []).append((start[0] + step[0], start[1] + step[1]))
    return [_without_midpoints(ring) for ring in _walked(following)]


def _start(row: int, column: int, change: Corner) -> Corner:
    """Return the corner at which the edge of a pixel towards its missing neighbour begins, clockwise in the picture."""
    return {
        (1, 0): (row, column),
        (-1, 0): (row + 1, column + 1),
        (0, 1): (row + 1, column),
        (0, -1): (row, column + 1),
    }[change]


def _walked(following: dict[Corner, list[Corner]]) -> list[list[Corner]]:
    """Return the closed walks over directed edges; where two parts touch in a corner, turn so that they stay apart."""
    rings = []
    while following:
        first = next(iter(following))
        ring, at, came = [first], first, None
        while True:
            ways = following[at]
            onward = ways.pop(0 if len(ways) == 1 or came is None else _sharpest(came, at, ways))
            if not ways:
                del following[at]
            came, at = at, onward
            if at == first:
                break
            ring.append(at)
        rings.append(ring)
    return rings


def _sharpest(came: Corner, at: Corner, ways: list[Corner]) -> int:
    """Return which way turns right: the same part goes on."""
    heading = (at[0] - came[0], at[1] - came[1])
    turns = [heading[1] * (way[0] - at[0]) - heading[0] * (way[1] - at[1]) for way in ways]
    return turns.index(max(turns))


def _without_midpoints(ring: list[Corner]) -> Ring:
    points = np.array(ring, np.int64)
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    corners: Ring = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return corners


def signed_area(ring: Ring) -> float:
    """Return the area in pixels; positive for a line that runs clockwise in the picture (rows down)."""
    row, column = ring.T
    return float((column * np.roll(row, -1) - row * np.roll(column, -1)).sum()) / 2


def _holds(ring: Ring, hole: Ring) -> bool:
    """Tell whether a hole lies within a polygon, by the edges that a ray from inside of a pixel beside it crosses."""
    row, column = hole[0] + 0.25  # off all corners and edges
    start, end = ring, np.roll(ring, -1, 0)
    vertical = start[:, 1] == end[:, 1]
    crossed = vertical & ((start[:, 0] > row) != (end[:, 0] > row)) & (start[:, 1] > column)
    return bool(crossed.sum() % 2)


def _cut_in(ring: Ring, holes: list[Ring]) -> Ring:
    """Return a polygon that goes to each hole, around it and back on the same line."""
    for hole in sorted(holes, key=lambda one: (int(one[:, 1].max()), int(one[:, 0].max())), reverse=True):
        far = np.abs(ring[:, None, :] - hole[None, :, :]).sum(-1)
        at, begin = (int(n) for n in np.unravel_index(int(far.argmin()), far.shape))
        around = np.roll(hole, -begin, 0)
        ring = np.concatenate([ring[: at + 1], around, around[:1], ring[at:]])
    return ring

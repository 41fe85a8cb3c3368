"""Gaps in what came of a series: steps of instance numbers or slice positions that are too long. Pure arithmetic.

Numbers that all go in twos, or slices that all lie 5 mm apart, have no gap; one step of more than 1.5 times the
median step is one. It must never take the frames of one multi-frame image for instances that may be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median_low

from appliance.study import FrameGeometry

LONG_STEP = 1.5  # times the median
FEWEST = 3  # places that have a median step
SAME_MM = 0.01


@dataclass(frozen=True)
class SeriesPlaces:
    """What the instances of one series say of their order."""

    numbers: Sequence[int] = ()  # Instance Number (0020,0013)
    planes: Sequence[FrameGeometry] = field(default_factory=tuple)


def gap_of(series: Sequence[SeriesPlaces]) -> str:
    """Return the first gap in words, or nothing."""
    for one in series:
        if has_gap(sorted(set(one.numbers))):
            return "the instance numbers of a series have a gap"
        if any(has_gap(places) for places in _along_normals(one.planes)):
            return "the slice positions of a series have a gap"
    return ""


def has_gap(places: Sequence[float]) -> bool:
    """Return whether a step between sorted, different places is more than 1.5 times the median step."""
    if len(places) < FEWEST:
        return False
    steps = [after - before for before, after in pairwise(places)]
    return max(steps) > LONG_STEP * median_low(steps)


def _along_normals(planes: Sequence[FrameGeometry]) -> list[list[float]]:
    """Return sorted positions in mm along the normal, one list an orientation; planes at one place count once."""
    by_orientation: dict[tuple[float, ...], list[float]] = {}
    for plane in planes:
        if plane.frame is None and plane.position and plane.orientation:
            turned = tuple(round(cosine, 2) for cosine in plane.orientation)
            by_orientation.setdefault(turned, []).append(_along_normal(plane.position, plane.orientation))
    return [_apart(sorted(places)) for places in by_orientation.values()]


def _along_normal(position: Sequence[float], orientation: Sequence[float]) -> float:
    a, b = orientation[:3], orientation[3:]
    normal = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    return sum(p * n for p, n in zip(position, normal, strict=True))


def _apart(places: Sequence[float]) -> list[float]:
    found: list[float] = []
    for place in places:
        if not found or place - found[-1] > SAME_MM:
            found.append(place)
    return found

"""Where in a volume a package is to look: another package finds a structure, and boxes are laid relative to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from appliance.errors import StudyUnsuitable
from appliance.volume import Volume
from models.inputs import Locator
from models.reading import Labels
from models.transforms import Box, turn_towards

TRIMMED = 0.01  # share of the structure's voxels that may lie beyond each face of its box: stray ones move nothing


def located_boxes(label_map: Labels, volume: Volume, locator: Locator) -> dict[str, Box]:
    """Return the box (k, j, i) of each region by its name, cut at the volume's edges.

    `label_map`: what the locator found, on the grid of `volume`. Raises StudyUnsuitable where it found too little.
    """
    mask = np.isin(label_map, locator.segments)
    found_ml = int(mask.sum()) * volume.voxel_ml
    if found_ml < locator.min_volume_ml:
        raise StudyUnsuitable(
            f"{locator.package} found {found_ml:.0f} ml of what is looked for, "
            f"at least {locator.min_volume_ml:g} ml are needed"
        )
    turn = turn_towards(volume.affine, "RAS")
    spans = []
    for axis in turn.order:
        within = mask.sum(axis=tuple(other for other in range(3) if other != axis)).cumsum()
        first, last = np.searchsorted(within, [TRIMMED * within[-1], (1 - TRIMMED) * within[-1]])
        spans.append((int(first), int(last) + 1))
    return {
        region.name: _box(region.low, region.high, spans, turn.order, turn.flipped, volume.shape)
        for region in locator.regions
    }


def _box(
    low: Sequence[float],
    high: Sequence[float],
    spans: Sequence[tuple[int, int]],
    order: Sequence[int],
    flipped: Sequence[bool],
    shape: Sequence[int],
) -> Box:
    sides = [slice(0, 0)] * 3
    for n, axis in enumerate(order):
        first, last = spans[n]
        ends = [(1 - share if flipped[n] else share) for share in (low[n], high[n])]
        edges = sorted(first + share * (last - first) for share in ends)
        start = min(max(0, int(np.floor(edges[0]))), shape[axis] - 1)
        sides[axis] = slice(start, max(start + 1, min(shape[axis], int(np.ceil(edges[1])))))
    return sides[0], sides[1], sides[2]

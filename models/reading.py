"""What one run of a package says. A value, light enough for every process: it must never import torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Reading:
    """What any kind of output has: label maps, scores of candidates, probabilities or numbers."""

    label_maps: tuple[Labels, ...] = ()  # (k, j, i) uint8 on the source grid; several only over time
    scores: tuple[float, ...] = ()  # of candidate n, whose label is len(segments) + 1 + n
    probabilities: tuple[float, ...] = ()  # of each class
    numbers: tuple[float, ...] = ()  # of each value of a regression
    located: tuple[str, ...] = ()  # the package that located, as "id@version"
    probability: Labels | None = None  # (k, j, i) uint8, 255 certain: of the mapped segment, where it was asked for
    regions: tuple[str, ...] = ()  # names of the boxes; segment s of region r has the label r × len(segments) + s

"""Two versions of a package on the cases that a site held back: is the newer one no worse?

Counted for each structure over all cases and for each scanner by itself, since a mean may hide one machine that lost.
Networks and arrays in, figures out: it must never promote anything.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from torch import nn

from models.local_pass import Case, dice_of

ALL = "all"
FEWEST = 3  # cases of one scanner from which its mean says anything


@dataclass(frozen=True)
class Score:
    """Mean Dice of one structure on one scanner's cases, or on all."""

    structure: str
    scanner: str
    cases: int
    active: float
    candidate: float

    def record(self) -> dict[str, object]:
        """Return this as it is kept and shown."""
        return asdict(self) | {"active": round(self.active, 4), "candidate": round(self.candidate, 4)}


def scores(candidate: nn.Module, active: nn.Module, cases: Sequence[Case], structures: Sequence[str]) -> list[Score]:
    """Return the scores of every structure on all cases, and on each scanner that has FEWEST of them.

    `structures`: names of classes 1, 2 …; a case in which neither truth nor answer holds one does not count for it.
    """
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for case in cases:
        old, new = (dice_of(network, case, len(structures) + 1) for network in (active, candidate))
        for structure, before, after in zip(structures, old, new, strict=True):
            if math.isnan(before) and math.isnan(after):
                continue
            pair = float(np.nan_to_num(before)), float(np.nan_to_num(after))
            pairs[structure, ALL].append(pair)
            pairs[structure, case.scanner].append(pair)
    return [
        Score(structure, scanner, len(several), *(float(np.mean(one)) for one in zip(*several, strict=True)))
        for (structure, scanner), several in sorted(pairs.items())
        if scanner == ALL or len(several) >= FEWEST
    ]


def worse(found: Sequence[Score], margin: float) -> str:
    """Return where the candidate lost more than `margin`, in a sentence; nothing where it did not.

    Raises ValueError without any score: nothing was looked at, which is no reason to believe.
    """
    if not found:
        raise ValueError("no score to judge by")
    lost = max(found, key=lambda one: one.active - one.candidate)
    if lost.active - lost.candidate <= margin:
        return ""
    where = "all held-back cases" if lost.scanner == ALL else f"the {lost.cases} held-back cases of {lost.scanner}"
    return (
        f"{lost.structure} has Dice {lost.candidate:.3f} on {where}, the active version {lost.active:.3f}; "
        f"at most {margin:g} may be lost"
    )

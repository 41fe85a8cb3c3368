"""Versions of a package on the cases that a site held back: how right is each, and is the newer one no worse?

Read by windows, as studies are, and counted for each structure over all cases and for each scanner by itself, since a
mean may hide one machine that lost. Networks and arrays in, figures out: it must never promote anything.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from torch import nn

from appliance.trial import ALL as ALL
from models.engines.torch import TorchEngine
from models.inference import as_windows, sliding_window
from models.local_pass import Case
from models.operations import SlidingWindow
from models.outputs import Segmentation
from models.package import Package

FEWEST = 3  # cases of one scanner from which its mean says anything


@dataclass(frozen=True)
class Reader:
    """One network and the cases as it sees them."""

    network: nn.Module
    cases: Sequence[Case]
    structures: Sequence[str]  # names of classes 1, 2 …
    windows: SlidingWindow

    def dice(self) -> Iterator[dict[str, float]]:
        """Yield the Dice of each structure for each case; without one that neither truth nor answer holds."""
        engine = TorchEngine(self.network, "torch", "cpu")
        for case in self.cases:
            answer = sliding_window(case.image, engine, self.windows).argmax(0)
            found = {name: _dice(answer == n, case.labels == n) for n, name in enumerate(self.structures, start=1)}
            yield {name: one for name, one in found.items() if not math.isnan(one)}

    def by_structure(self) -> dict[str, float]:
        """Return the mean over cases of each structure that any case holds."""
        found: dict[str, list[float]] = defaultdict(list)
        for one in self.dice():
            for name, dice in one.items():
                found[name].append(dice)
        return {name: fmean(several) for name, several in found.items()}

    def mean(self) -> float:
        """Return the mean over structures; NaN where there is nothing to judge by."""
        found = self.by_structure().values()
        return fmean(found) if found else math.nan


def reader_of(package: Package, network: nn.Module, cases: Sequence[Case]) -> Reader:
    """Return a reader of a segmentation's cases; of none for a package that outlines nothing."""
    declared = package.manifest
    if not isinstance(declared.outputs, Segmentation):
        return Reader(network, (), (), as_windows(declared.inference))
    names = [one.name for one in declared.outputs.segments]
    return Reader(network, cases, names, as_windows(declared.inference))


def _dice(found: torch.Tensor, truth: torch.Tensor) -> float:
    size = float(found.sum() + truth.sum())
    return 2 * float((found & truth).sum()) / size if size else math.nan


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


def scores(candidate: Reader, active: Reader) -> list[Score]:
    """Return the scores of every structure of both on all cases, and on each scanner that has FEWEST of them.

    Both have the same cases in the same order, each on its own grid. A case in which neither truth nor answer holds a
    structure does not count for it; one that a single side holds counts 0 for the other.
    """
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for case, new, old in zip(candidate.cases, candidate.dice(), active.dice(), strict=True):
        for structure in new.keys() | old.keys():
            if structure in candidate.structures and structure in active.structures:
                pair = old.get(structure, 0.0), new.get(structure, 0.0)
                pairs[structure, ALL].append(pair)
                pairs[structure, case.scanner].append(pair)
    return [
        Score(structure, scanner, len(several), *(fmean(one) for one in zip(*several, strict=True)))
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

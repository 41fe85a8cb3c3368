"""The way of a federated candidate at one site: what was found, and what is to happen next. Decisions only, no I/O.

arrived → tried on held-back cases → shadow on live studies → ready for a person, or promoted by the site's own policy;
worse → retired. A promoted one falls back by itself where radiologists correct it too often or its numbers drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean, pstdev

ALL = "all"  # stands for all scanners in a score
FEWEST = 10  # results on either side from which drift is looked for


@dataclass(frozen=True)
class TrialPolicy:
    """What a site wants to see before a candidate may read."""

    shadow_studies: int = 20
    shadow_days: float = 14.0  # whichever comes first, once one study was compared
    least_dice: float = 0.7  # to the active version's results in shadow, the worst structure's mean
    agreement_margin: float = 0.1  # … or, where the active version is poor itself, so much below its own Dice
    auto_promote: bool = False
    correction_limit: float = 0.3  # share of results that radiologists corrected
    correction_results: int = 20  # results from which that share says anything
    drift_limit: float = 1.5  # standard deviations that the mean of a measurement may move


@dataclass(frozen=True)
class Shadowed:
    """What the shadow run has shown so far."""

    since: datetime
    studies: int
    least_dice: float | None  # the worst structure's mean; None where nothing was to compare
    active_dice: float | None = None  # of the active version's worst structure on held-back cases, where there are any


@dataclass(frozen=True)
class Step:
    """What is to happen, and why."""

    kind: str  # wait | ready | promote | retire
    reason: str


def after_shadow(seen: Shadowed, policy: TrialPolicy, now: datetime) -> Step:
    """Return what a candidate in shadow has earned."""
    days = (now - seen.since) / timedelta(days=1)
    if not seen.studies or (seen.studies < policy.shadow_studies and days < policy.shadow_days):
        left = f"{seen.studies} of {policy.shadow_studies} studies, {max(days, 0):.1f} of {policy.shadow_days:g} days"
        return Step("wait", f"in shadow: {left}")
    least = least_agreement(seen, policy)
    if seen.least_dice is not None and seen.least_dice < least:
        said = f"in shadow it agrees with the active version by Dice {seen.least_dice:.2f} alone (at least {least:.2f})"
        return Step("retire", said)
    said = f"no worse on held-back cases, {seen.studies} studies in shadow"
    return Step("promote", said) if policy.auto_promote else Step("ready", f"{said}: `curie models promote` decides")


def least_agreement(seen: Shadowed, policy: TrialPolicy) -> float:
    """Return how far a candidate must agree with the active version: no better than that agrees with the truth.

    Where the active version is poor on held-back cases, a candidate that is right cannot but differ from it.
    """
    if seen.active_dice is None:
        return policy.least_dice
    return max(0.0, min(policy.least_dice, seen.active_dice - policy.agreement_margin))


@dataclass(frozen=True)
class Reads:
    """What an active version has done since it was promoted, and its predecessor before."""

    results: int
    corrected: int
    before: Sequence[tuple[str, float]]  # (finding and measurement, value), of the predecessor
    after: Sequence[tuple[str, float]]


def reason_to_fall_back(reads: Reads, policy: TrialPolicy) -> str:
    """Return why the version before is to speak again; nothing where all is well."""
    if reads.results >= policy.correction_results:
        rate = reads.corrected / reads.results
        if rate > policy.correction_limit:
            limit = f"limit {policy.correction_limit:.0%}"
            return f"{reads.corrected} of {reads.results} results were corrected ({rate:.0%}, {limit})"
    for name in sorted({name for name, _ in reads.after}):
        moved = drift(values_of(reads.before, name), values_of(reads.after, name))
        if moved is not None and abs(moved) > policy.drift_limit:
            return f"{name} moved by {moved:+.1f} standard deviations (limit {policy.drift_limit:g})"
    return ""


def values_of(measured: Sequence[tuple[str, float]], name: str) -> list[float]:
    """Return the values of one measurement."""
    return [value for found, value in measured if found == name]


def drift(before: Sequence[float], after: Sequence[float]) -> float | None:
    """Return how far the mean moved, in standard deviations of before; None where there is too little to say so."""
    if len(before) < FEWEST or len(after) < FEWEST:
        return None
    spread = pstdev(before)
    return (fmean(after) - fmean(before)) / spread if spread > 0 else None

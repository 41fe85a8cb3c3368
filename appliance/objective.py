"""How long answers take, against what a route promises. Pure: seconds of each step in, a verdict out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

STEPS = (  # of the straight line, in its order; together they are the whole
    "complete_s", "wait_s", "volume_s", "inference_s", "results_s", "delivery_s", "commitment_s",
)  # fmt: skip
LEAST = 20  # studies, for a share of them to mean anything
SHARE = 0.95


@dataclass(frozen=True)
class Answered:
    """How long a route's studies took, from their last image to their results being held by the PACS."""

    route: str
    studies: int
    p50_s: float
    p95_s: float
    objective_s: float | None
    shares: Mapping[str, float] = field(default_factory=dict)  # of the time, by step

    @property
    def breached(self) -> bool:
        """Whether more than one in twenty took longer than the route promises."""
        return self.objective_s is not None and self.studies >= LEAST and self.p95_s > self.objective_s


def whole(timings: Mapping[str, float]) -> float:
    """Return the seconds from the last image to the commitment, where there is one, else to the delivery."""
    return timings.get("total_s", 0.0) + timings.get("commitment_s", 0.0)


def answered(route: str, found: Sequence[Mapping[str, float]], objective_s: float | None) -> Answered | None:
    """Return what the timings of a route's studies come to; None where there are none."""
    took = sorted(whole(one) for one in found if "total_s" in one)
    if not took:
        return None
    spent = {step: sum(one.get(step, 0.0) for one in found) for step in STEPS}
    total = sum(spent.values()) or 1.0
    p95 = took[min(len(took) - 1, int(len(took) * SHARE))]
    shares = {step: round(seconds / total, 4) for step, seconds in spent.items()}
    return Answered(route, len(took), statistics.median(took), p95, objective_s, shares)

"""When is a study complete? A pure decision: facts and `now` in, answer and reason out. It never waits.

| all associations ended | last one aborted | since last end    | since last instance | answer           |
|------------------------|------------------|-------------------|---------------------|------------------|
| any                    | any              | any               | any (first ≥ force) | forced           |
| yes                    | no               | ≥ after_release_s | any                 | released         |
| yes                    | no               | < after_release_s | any                 | wait             |
| yes                    | yes              | any               | ≥ quiet_s           | quiet            |
| no                     | any              | –                 | ≥ quiet_s           | quiet            |
| no                     | any              | –                 | < quiet_s           | wait             |
An association whose lease ran out ended, aborted, when the lease did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class AssociationFact:
    """One association that brought instances of the study."""

    lease_until: datetime
    ended_at: datetime | None = None
    aborted: bool = False


@dataclass(frozen=True)
class StudyFacts:
    """What the catalogue knows of a study that is being received."""

    first_received_at: datetime
    last_received_at: datetime
    associations: Sequence[AssociationFact]


@dataclass(frozen=True)
class Limits:
    """The settings under [completeness], in seconds."""

    after_release_s: float
    quiet_s: float
    force_s: float


@dataclass(frozen=True)
class Decision:
    """`reason` is one of forced, released, quiet when complete, else empty."""

    complete: bool
    reason: str = ""


WAIT = Decision(False)


def _end(fact: AssociationFact, now: datetime) -> tuple[datetime, bool] | None:
    if fact.ended_at is not None:
        return fact.ended_at, fact.aborted
    if fact.lease_until <= now:
        return fact.lease_until, True
    return None


def decide(facts: StudyFacts, limits: Limits, now: datetime) -> Decision:
    """Return whether the study is complete at `now`, by the table above."""
    if now - facts.first_received_at >= timedelta(seconds=limits.force_s):
        return Decision(True, "forced")
    ends = [_end(fact, now) for fact in facts.associations]
    known = [end for end in ends if end is not None]
    if known and len(known) == len(ends):
        last_end, aborted = max(known)
        if not aborted:
            over = now - last_end >= timedelta(seconds=limits.after_release_s)
            return Decision(True, "released") if over else WAIT
    quiet = now - facts.last_received_at >= timedelta(seconds=limits.quiet_s)
    return Decision(True, "quiet") if quiet else WAIT

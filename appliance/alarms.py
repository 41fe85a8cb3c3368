"""What calls for a person, as sentences without a patient. Pure: facts in, alarms out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from appliance.objective import Answered

QUEUE_S = 1800.0  # a clinical job waits longer than this
OUTBOX_S = 3600.0  # a result waits longer than this
Alarms = dict[str, str]  # name → sentence


@dataclass(frozen=True)
class Facts:
    """How things are."""

    processes: Sequence[Mapping[str, Any]]  # name, host, healthy
    free_gb: float
    reserve_gb: float
    queued_s: float  # age of the oldest queued job
    waiting_s: Mapping[str, float] = field(default_factory=dict)  # of the oldest result, by destination
    rejected: Mapping[str, int] = field(default_factory=dict)  # results, by destination
    failed: int = 0  # jobs, in the last hour
    fell_back: Sequence[str] = ()  # versions, in the last day
    answers: Sequence[Answered] = ()
    checks: Mapping[str, str] = field(
        default_factory=dict
    )  # what `curie doctor` finds wrong with certificates and the collector


def alarms(facts: Facts) -> Alarms:
    """Return everything that calls for a person now, by a name that stays the same while it lasts."""
    checks = {f"check {name}": text for name, text in facts.checks.items()}
    return _of_the_house(facts) | _of_the_flow(facts) | _of_the_answers(facts) | checks


def _of_the_house(facts: Facts) -> Alarms:
    found: Alarms = {}
    for one in facts.processes:
        if not one["healthy"]:
            found[f"process {one['name']} on {one['host']}"] = "does not beat; look at its log, restart it"
    if facts.free_gb < 2 * facts.reserve_gb:
        text = f"{facts.free_gb:.1f} GiB are free; below {facts.reserve_gb:g} images are refused"
        found["disk"] = f"{text}: free space, or lower spool.keep_days"
    return found


def _of_the_flow(facts: Facts) -> Alarms:
    found: Alarms = {}
    if facts.queued_s > QUEUE_S:
        found["queue"] = f"a job has waited for {_minutes(facts.queued_s)}; `curie status` shows the workers"
    for name, seconds in facts.waiting_s.items():
        if seconds > OUTBOX_S:
            found[f"destination {name}"] = (
                f"a result has waited for {_minutes(seconds)}; `curie destinations test {name}`"
            )
    for name, count in facts.rejected.items():
        found[f"rejected by {name}"] = f"{count} results; `curie jobs list --state failed` and `curie explain` say why"
    if facts.failed:
        found["failed jobs"] = f"{facts.failed} in the last hour; `curie jobs list --state failed` says why"
    return found


def _of_the_answers(facts: Facts) -> Alarms:
    found: Alarms = {}
    for name in facts.fell_back:
        found[f"model {name}"] = "fell back to the version before; `curie federation status` says why"
    for told in facts.answers:
        if told.breached:
            text = (
                f"95 of 100 studies take up to {_minutes(told.p95_s)}, {_minutes(told.objective_s or 0)} are promised"
            )
            found[f"route {told.route}"] = f"{text}; most of it is {slowest(told)}"
    return found


def slowest(told: Answered) -> str:
    """Return the step that takes most of the time, with its share."""
    step, share = max(told.shares.items(), key=lambda one: one[1])
    return f"{step.removesuffix('_s')} ({share:.0%})"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"


@dataclass(frozen=True)
class Change:
    """What is to be told: alarms that came and alarms that went."""

    at: datetime
    raised: Alarms
    cleared: Sequence[str]


def change(before: Sequence[str], found: Alarms, at: datetime) -> Change | None:
    """Return what is new since `before` was told; None where nothing is."""
    raised = {name: text for name, text in found.items() if name not in before}
    cleared = sorted(set(before) - set(found))
    return Change(at, raised, cleared) if raised or cleared else None

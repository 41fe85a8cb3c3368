"""What calls for a person, in sentences without a patient: facts in, alarms out. Whoever tells of trouble asks here.

Console, alerts and `curie status` show the same because nothing else decides. Pure: it must never read anything itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from appliance.objective import Answered

# step → how long the first of it may stand there before somebody should look
PATIENCE = {
    "receiving": timedelta(minutes=20),
    "complete": timedelta(minutes=2),
    "queued": timedelta(minutes=30),
    "running": timedelta(minutes=30),
    "delivering": timedelta(minutes=15),
}
# step → what is said of it, what to do, and the page that shows more; of results each destination is named
LATE = {
    "receiving": ("A study is still being received", "Look whether its source goes on sending.", "/studies"),
    "complete": ("A complete study is not routed", "Look at the log of dispatch.", "/studies"),
    "queued": ("A job waits", "Look whether a worker is running and free.", "/studies?outcome=queued"),
    "running": ("A job runs", "Look at the log of the worker.", "/studies?outcome=running"),
}
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Alarm:
    """One thing that calls for a person."""

    name: str  # stays the same while it lasts
    said: str
    remedy: str
    where: str = ""  # the console's page that shows more

    @property
    def text(self) -> str:
        """What is wrong and what to do."""
        return f"{self.said} {self.remedy}"

    def record(self) -> dict[str, str]:
        """Return the alarm as a JSON record."""
        return {"name": self.name, "said": self.said, "remedy": self.remedy}


@dataclass(frozen=True)
class Facts:
    """How things are."""

    processes: Sequence[Mapping[str, Any]]  # name, host, healthy
    needed: Sequence[str]  # kinds of process that must be there
    free_gb: float | None  # None: the folder cannot be read
    reserve_gb: float
    standing: Mapping[str, tuple[int, datetime | None]] = field(default_factory=dict)  # by step, since when the first
    waiting: Mapping[str, tuple[int, datetime]] = field(default_factory=dict)  # results, by destination, likewise
    rejected: Mapping[str, int] = field(default_factory=dict)  # results, by destination, in the last day
    failed: Mapping[str, int] = field(default_factory=dict)  # jobs, by package, in the last day
    conflicting: int = 0  # images with other pixels under a known UID, in the last day
    fell_back: Sequence[str] = ()  # versions, in the last day
    untold: Mapping[str, datetime] = field(default_factory=dict)  # ways by which alarms wait to be told, since when
    answers: Sequence[Answered] = ()
    checks: Sequence[Mapping[str, str]] = ()  # name, text, remedy of what `curie doctor` would find wrong


def needed(broker: str) -> tuple[str, ...]:
    """Return the kinds of process without which no study is answered."""
    return ("receiver", "dispatch", "worker", "delivery", *(("broker",) if broker == "embedded" else ()))


def alarms(facts: Facts, now: datetime) -> list[Alarm]:
    """Return everything that calls for a person now, the worst first; nothing where all is well."""
    of_the_house = [*_processes(facts), *_space(facts)]
    of_the_flow = [*_late(facts, now), *_waiting(facts, now), *_endings(facts)]
    return [*of_the_house, *of_the_flow, *_models(facts), *_promises(facts), *_untold(facts), *_checks(facts)]


def _processes(facts: Facts) -> list[Alarm]:
    away = [one for one in facts.processes if not one["healthy"]]
    names = [one["name"] for one in facts.processes]
    absent = [kind for kind in facts.needed if not any(name.startswith(kind) for name in names)]
    remedy = "It is restarted by `curie up`; see its log."
    found = [
        Alarm(f"process {one['name']} on {one['host']}", f"Process {one['name']} does not answer.", remedy)
        for one in away
    ]
    return found + [
        Alarm(f"process {kind}", f"No {kind} is running.", f"`curie up`, or `curie run {kind}`.") for kind in absent
    ]


def _space(facts: Facts) -> list[Alarm]:
    if facts.free_gb is None:
        return [Alarm("disk", "The folder of the data cannot be read.", "`curie doctor` says why.")]
    if facts.free_gb >= 2 * facts.reserve_gb:
        return []
    refused = facts.free_gb < facts.reserve_gb
    said = f"{facts.free_gb:.1f} GB are free" + (
        ": images are refused." if refused else "; images will soon be refused."
    )
    remedy = f"Free space, or lower spool.keep_days (reserve_gb is {facts.reserve_gb:g})."
    return [Alarm("disk", said, remedy)]


def _late(facts: Facts, now: datetime) -> list[Alarm]:
    found = []
    for step, (said, remedy, where) in LATE.items():
        number, since = facts.standing.get(step, (0, None))
        if number and since is not None and now - since > PATIENCE[step]:
            text = f"{said} for {_lasted(now - since)} ({number} at this step)."
            found.append(Alarm(f"step {step}", text, remedy, where))
    return found


def _waiting(facts: Facts, now: datetime) -> list[Alarm]:
    return [
        Alarm(
            f"destination {name}",
            f"{_counted(number, 'result')} for {name}: the first waits for {_lasted(now - since)}.",
            f"`curie destinations test {name}` says whether it answers.",
            "/destinations",
        )
        for name, (number, since) in facts.waiting.items()
        if now - since > PATIENCE["delivering"]
    ]


def _endings(facts: Facts) -> list[Alarm]:
    found = []
    for package, count in facts.failed.items():
        said = f"{_counted(count, 'job')} of {package} failed in the last 24 hours."
        remedy = "Each says why; an operator may try it again (`curie jobs retry`)."
        found.append(Alarm(f"failed {package}", said, remedy, "/studies?outcome=failed"))
    for name, count in facts.rejected.items():
        said = f"{_counted(count, 'result')} rejected by {name} in the last 24 hours."
        found.append(Alarm(f"rejected by {name}", said, "`curie explain` says what it answered.", "/destinations"))
    if facts.conflicting:
        said = f"{_counted(facts.conflicting, 'image')} came with other pixels under a known UID in the last 24 hours."
        remedy = "Their studies get no result: ask the source which are right."
        found.append(Alarm("conflicting images", said, remedy, "/studies?outcome=failed"))
    return found


def _models(facts: Facts) -> list[Alarm]:
    return [
        Alarm(f"model {name}", f"{name} fell back to the version before.", "Look why.", "/federation")
        for name in facts.fell_back
    ]


def _promises(facts: Facts) -> list[Alarm]:
    found = []
    for told in facts.answers:
        if told.breached:
            took, promised = _lasted(timedelta(seconds=told.p95_s)), _lasted(timedelta(seconds=told.objective_s or 0))
            said = f"Route {told.route}: 95 of 100 studies take up to {took}, {promised} are promised."
            found.append(Alarm(f"route {told.route}", said, f"Most of it is {slowest(told)}."))
    return found


def _untold(facts: Facts) -> list[Alarm]:
    return [
        Alarm(
            f"alerts {way}",
            f"Alarms could not be told by {way} since {since.astimezone():%Y-%m-%d %H:%M}.",
            f"`curie doctor` says why (alerts.{way}); they are told when it answers.",
        )
        for way, since in facts.untold.items()
    ]


def _checks(facts: Facts) -> list[Alarm]:
    return [
        Alarm(f"check {one['name']}", ended(f"{one['name']}: {one['text']}"), ended(one["remedy"]))
        for one in facts.checks
    ]


def ended(text: str) -> str:
    """Return a text with one mark at its end."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def slowest(told: Answered) -> str:
    """Return the step that takes most of the time, with its share."""
    step, share = max(told.shares.items(), key=lambda one: one[1])
    return f"{step.removesuffix('_s')} ({share:.0%})"


def _lasted(time: timedelta) -> str:
    return f"{time // MINUTE} minutes" if time >= 2 * MINUTE else f"{time.total_seconds():.0f} s"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Change:
    """What is to be told: alarms that came and alarms that went."""

    at: datetime
    raised: Sequence[Alarm]
    cleared: Sequence[str]


def change(told: Collection[str], before: Collection[str], found: Sequence[Alarm], at: datetime) -> Change | None:
    """Return what is to be told now; None where nothing is.

    `told`: names that were told; `before`: those of the look before this one. What is seen, or missed, in one look
    alone is not told: a process that starts again calls for nobody.
    """
    names = {one.name for one in found}
    raised = [one for one in found if one.name in before and one.name not in told]
    cleared = sorted(set(told) - names - set(before))
    return Change(at, raised, cleared) if raised or cleared else None

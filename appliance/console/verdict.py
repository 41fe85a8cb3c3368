"""Is all well? What was counted → what needs attention, each with the next step. Decisions only, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

GIB = 1024**3
# step → how long the first of it may stand there before somebody should look
PATIENCE = {
    "receiving": timedelta(minutes=20),
    "complete": timedelta(minutes=2),
    "queued": timedelta(minutes=30),
    "running": timedelta(minutes=30),
    "delivering": timedelta(minutes=15),
}


@dataclass(frozen=True)
class Trouble:
    """One thing that needs attention."""

    said: str
    remedy: str
    where: str = ""  # the page that shows more


@dataclass(frozen=True)
class Seen:
    """What was counted."""

    processes: Sequence[Mapping[str, Any]]
    needed: Sequence[str]  # kinds of process that must be there
    standing: Mapping[str, tuple[int, datetime | None]]
    failed: int  # jobs of the last day
    rejected: int  # results that a destination or our own check rejected
    free_bytes: int
    reserve_gb: float


def troubles(seen: Seen, now: datetime) -> list[Trouble]:
    """Return what needs attention, the worst first; nothing where all is well."""
    return [*_processes(seen), *_space(seen), *_late(seen, now), *_endings(seen)]


def _processes(seen: Seen) -> list[Trouble]:
    healthy = [one["name"] for one in seen.processes if one["healthy"]]
    away = [one["name"] for one in seen.processes if not one["healthy"]]
    absent = [kind for kind in seen.needed if not any(name.startswith(kind) for name in (*healthy, *away))]
    found = [Trouble(f"Process {name} does not answer.", "It is restarted by curie up; see its log.") for name in away]
    return found + [Trouble(f"No {kind} is running.", f"curie up, or curie run {kind}.") for kind in absent]


def _space(seen: Seen) -> list[Trouble]:
    free = seen.free_bytes / GIB
    if free >= 2 * seen.reserve_gb:
        return []
    refused = free < seen.reserve_gb
    said = f"{free:.1f} GB are free" + (": images are refused." if refused else "; images will soon be refused.")
    return [Trouble(said, f"Free space, or lower spool.keep_days (reserve_gb is {seen.reserve_gb:g}).")]


def _late(seen: Seen, now: datetime) -> list[Trouble]:
    meanings = {
        "receiving": ("A study is still being received", "Look whether its source goes on sending.", "/studies"),
        "complete": ("A complete study is not routed", "Look at the log of dispatch.", "/studies"),
        "queued": ("A job waits", "Look whether a worker is running and free.", "/studies?outcome=queued"),
        "running": ("A job runs", "Look at the log of the worker.", "/studies?outcome=running"),
        "delivering": ("A result waits to be taken", "Look whether its destination answers.", "/destinations"),
    }
    found = []
    for step, patience in PATIENCE.items():
        number, since = seen.standing.get(step, (0, None))
        if number and since is not None and now - since > patience:
            said, remedy, where = meanings[step]
            minutes = (now - since) // timedelta(minutes=1)
            found.append(Trouble(f"{said} for {minutes} minutes ({number} at this step).", remedy, where))
    return found


def _endings(seen: Seen) -> list[Trouble]:
    found = []
    if seen.failed:
        said = f"{seen.failed} job{'s' if seen.failed > 1 else ''} failed in the last 24 hours."
        found.append(Trouble(said, "Each says why; an operator may try it again.", "/studies?outcome=failed"))
    if seen.rejected:
        said = f"{seen.rejected} result{'s were' if seen.rejected > 1 else ' was'} rejected."
        found.append(Trouble(said, "The answer is shown beside it.", "/destinations"))
    return found

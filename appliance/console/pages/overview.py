"""The first page: is all well, what stands at which step, and how the last hours went."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from statistics import median, quantiles
from typing import Any

from starlette.responses import Response

from appliance.alarms import alarms
from appliance.catalogue import flow, packages
from appliance.catalogue.connection import now
from appliance.console.visit import Visit
from appliance.watch import facts

DAY = timedelta(hours=24)


@dataclass(frozen=True)
class Step:
    """One step of the straight line, as it is counted: what stands there, and the event by which it is left."""

    key: str
    name: str
    meaning: str
    left_by: str


STEPS = (
    Step("receiving", "Received", "studies whose images still come", "study_complete"),
    Step("complete", "Complete", "studies that wait for their routes", "study_routed"),
    Step("queued", "Queued", "jobs that wait for a worker", "job_started"),
    Step("running", "Computing", "volume, inference, findings, results", "results_written"),
    Step("delivering", "Delivering", "results that wait for a destination", "result_delivered"),
)
ENDINGS = (
    ("result_committed", "Results committed", False),
    ("job_unsuitable", "Jobs unsuitable", False),
    ("job_failed", "Jobs failed", True),
)
TIMED = {"running": "computing"}  # step → what `flow.times` calls it, where the names differ


def page(visit: Visit) -> Response:
    """Show the whole page."""
    return visit.show("overview.html", **_told(visit))


def part(visit: Visit) -> Response:
    """Show what changes of it."""
    return visit.show("overview_part.html", **_told(visit))


def _told(visit: Visit) -> dict[str, Any]:
    at = now()
    with visit.desk.catalogue.read() as connection:
        seen = facts(visit.desk.settings, connection, at)
        standing = flow.standing(connection)
        hours = flow.by_hour(connection, [one.left_by for one in STEPS] + [kind for kind, *_ in ENDINGS], at)
        taken = flow.times(connection, at - DAY)
        failed = flow.failed(connection, at - DAY)
        models = [row for row in packages.versions(connection) if row.state in ("active", "shadow")]
        engines = {row.digest: packages.engine_reports(connection, row.digest) for row in models}
    return {
        "alarms": alarms(seen, at),
        "steps": [(step, *standing[step.key], hours[step.left_by], _spread(taken, step.key)) for step in STEPS],
        "endings": [(name, hours[kind], alarming) for kind, name, alarming in ENDINGS],
        "total": _spread(taken, "total"),
        "failed": failed,
        "processes": seen.processes,
        "models": models,
        "engines": engines,
        "read_at": at,
        "free_gb": seen.free_gb,
    }


def _spread(taken: list[dict[str, float]], step: str) -> tuple[float | None, float | None, int]:
    """Return the median and the 95th percentile of the seconds of a step, and of how many."""
    found = [one[name] for one in taken if (name := TIMED.get(step, step)) in one]
    if not found:
        return None, None, 0
    return median(found), quantiles(found, n=20, method="inclusive")[-1] if len(found) > 1 else found[0], len(found)

"""One study: its straight line with times, each outcome and why, the results over the images, and their passport."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.responses import RedirectResponse, Response

from appliance.catalogue import events, flow, forgetting, jobs, orders, overview, packages
from appliance.catalogue.connection import now
from appliance.console.identity import identifiers_in
from appliance.console.pictures import Order
from appliance.console.visit import Visit
from appliance.errors import Missing, SettingsError

# event → the word of the straight line that it stands for
LINE = {
    "instance_indexed": "received",
    "study_complete": "complete",
    "study_routed": "routed",
    "job_started": "started",
    "results_written": "results",
    "result_delivered": "delivered",
    "result_committed": "committed",
}
RETRIED = ("failed", "unsuitable", "cancelled")


def page(visit: Visit) -> Response:
    """Show the study."""
    return visit.show("study.html", **_told(visit), identifiers=None)


def part(visit: Visit) -> Response:
    """Show what changes of it."""
    return visit.show("study_part.html", **_told(visit))


def _told(visit: Visit) -> dict[str, Any]:
    """Return everything that is known of the study of the address. Raises Missing."""
    from appliance.cli.studies import without_route

    uid = visit.path["study"]
    with visit.desk.catalogue.read() as connection:
        if overview.find_study(connection, uid) != uid:
            raise Missing("no study has this Study Instance UID")
        told = overview.explain(connection, uid)
        told["outcomes"] += without_route(visit.desk.settings, packages.versions(connection), told)
        happened = events.of_study(connection, uid)
        for one in told["outcomes"]:
            _fill(one)
            of_job = events.of_job(connection, one["job"]) if one["job"] else []
            happened += [event for event in of_job if not event["study_instance_uid"]]
        series = flow.series_of(connection, uid)
    happened.sort(key=lambda one: one["seq"])
    goes_on = not told["outcomes"] or any(one["outcome"] == "pending" for one in told["outcomes"])
    return {
        "study": told,
        "series": series,
        "lines": _lines(told["outcomes"], happened),
        "happened": happened,
        "goes_on": goes_on,
    }


def _fill(outcome: dict[str, Any]) -> None:
    """Add what the page shows beyond `curie explain`."""
    for name, nothing in (("job", ""), ("state", ""), ("engine", ""), ("skipped", []), ("passport", None)):
        outcome.setdefault(name, nothing)
    outcome["can_retry"] = outcome["state"] in RETRIED or any(one["state"] == "rejected" for one in outcome["results"])
    outcome["drawn"] = any(one["role"] == "SEG" for one in outcome["results"])


def _lines(outcomes: Sequence[Mapping[str, Any]], happened: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the way of each job that a route asks for now; of the study alone where there is none.

    What replays and shadows do is no part of it.
    """
    asked = {one["job"]: f"{one['package']}@{one['version']}" for one in outcomes if one["route"] and one["job"]}
    if not asked:
        return [{"title": "", "steps": _steps([one for one in happened if not one["job_id"]])}]
    return [
        {"title": title if len(asked) > 1 else "", "steps": _steps(_of_job(happened, job))}
        for job, title in asked.items()
    ]


def _of_job(happened: Sequence[Mapping[str, Any]], job: str) -> list[Mapping[str, Any]]:
    """Return what happened to a job, and to its study before the job started: what came later was not for it."""
    started = next((one["seq"] for one in happened if one["job_id"] == job and one["kind"] == "job_started"), math.inf)
    return [one for one in happened if one["job_id"] == job or (not one["job_id"] and one["seq"] < started)]


def _steps(happened: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the words of the straight line with the last time and how often, and those not reached yet."""
    found: list[dict[str, Any]] = []
    before: datetime | None = None
    for kind, word in LINE.items():
        of_kind = [one["at"] for one in happened if one["kind"] == kind]
        last = of_kind[-1] if of_kind else None
        took = (last - before).total_seconds() if last and before and last >= before else None
        found.append({"word": word, "at": last, "times": len(of_kind), "took": took})
        before = last or before
    return found


def identifiers(visit: Visit) -> Response:
    """Say who the patient is, to somebody who may ask; the asking is on record before the answer is there."""
    uid = visit.path["study"]
    with visit.desk.catalogue.write() as connection:
        file = flow.image_of(connection, overview.find_study(connection, uid))
        events.record(connection, "identifiers_shown", who=visit.visitor.name, study=uid, address=visit.address)
    if file is None:
        raise _removed(visit, "the images of this study were removed (spool.keep_days); look it up in the PACS")
    found = identifiers_in(visit.desk.settings.spool_dir / file)
    if visit.in_place:
        return visit.show("identifiers.html", identifiers=found)
    return visit.show("study.html", **_told(visit), identifiers=found)


def picture(visit: Visit) -> Response:
    """Show the segmentation of a job over its images."""
    job, settings = visit.path["job"], visit.desk.settings
    with visit.desk.catalogue.read() as connection:
        record = overview.job_record(connection, job)
        seg = next((one for one in record["results"] if one["role"] == "SEG"), None)
        if seg is None or record["study_instance_uid"] != visit.path["study"]:
            raise Missing("this job made no segmentation")
        images = [path for paths in jobs.input_paths(connection, job).values() for path in paths]
    order = Order(
        tuple(str(settings.spool_dir / one) for one in images),
        str(settings.results_dir / seg["path"]),
        f"{record['package']}@{record['version']}",
    )
    if not all(Path(one).exists() for one in (*order.images, order.segmentation)):
        raise _removed(visit, "the images were removed (spool.keep_days); the result is in the PACS")
    png = visit.desk.pictures.of(seg["sha256"], order)
    return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})


def _removed(visit: Visit, otherwise: str) -> Missing:
    """Return what to say of files that are gone: that the study was forgotten, or how it came otherwise."""
    with visit.desk.catalogue.read() as connection:
        gone = forgetting.forgotten(connection, visit.path["study"])
    return Missing(f"the study was {gone}; its images and results are deleted here" if gone else otherwise)


def retry(visit: Visit) -> Response:
    """Queue a job again, as `curie jobs retry` does."""
    job = visit.path["job"]
    with visit.desk.catalogue.write() as connection:
        record = overview.job_record(connection, job)
        if record["study_instance_uid"] != visit.path["study"]:
            raise SettingsError("this job is of another study")
        orders.retry(connection, job, visit.visitor.name, now())
    return RedirectResponse(f"/studies/{visit.path['study']}", 303)

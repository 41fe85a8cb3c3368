"""`curie studies replay`: a version of a package on past studies; nothing is sent unless it is asked for."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.catalogue import overview
from appliance.catalogue.connection import now
from appliance.cli.models import registry
from appliance.cli.output import ConfigOption, JsonOption, console, print_json
from appliance.errors import SettingsError
from appliance.settings import Settings, load

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from appliance.routing import RouteDecision
    from appliance.study import StudySummary
    from models.package import Package
    from models.registry import Registry

PRIORITY = 29  # after everything else
NOT_ROUTED = "it is not complete, or its routes have not decided yet; replay it afterwards"
# state in which a job is found → what is said of it
FOUND = {
    "new": "queued",
    "queued": "queued already",
    "running": "running already",
    "delivering": "read by this version already",
    "completed": "read by this version already",
    "failed": "queued again",
    "cancelled": "queued again",
    "superseded": "queued again",
}


def replay(
    package: Annotated[str, typer.Option(help='The version to run, e.g. "brain-structures@1.1.0".')],
    study: Annotated[list[str] | None, typer.Argument(help="Study Instance UIDs or Accession Numbers.")] = None,
    days: Annotated[
        int, typer.Option(min=0, max=3650, help="In place of named studies: all that came in so many days.")
    ] = 0,
    send: Annotated[
        bool, typer.Option("--send", help="Send what it makes by the routes of the package; the old is replaced.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Run a version of a package on past studies. Without --send nothing of it leaves; `curie models compare` tells.

    With --send a changed package makes a new result set that names its predecessor; an unchanged one sends the
    stored bytes again. Studies of --days are never sent.
    """
    if bool(study) == bool(days):
        raise SettingsError(f"name studies, or --days N of at least 1{'; not both' if study else ''}")
    if days and send:
        raise SettingsError("name studies with --send: what is sent again is named study by study")
    settings = load(config)
    with registry(config) as opened:
        opened.package(package)  # raises before a study is looked for
        chosen = study or _of_days(opened, days)
        found = [replayed(opened, one, package, settings if send else None) for one in chosen]
    if json:
        print_json(found)
        return
    if days:
        counts = Counter(one["outcome"] for one in found)
        console.print(
            f"{len(found)} studies of {days} days", *(f"{counts[one]} {one}" for one in sorted(counts)), sep=", "
        )
        return
    for one in found:
        console.print(f"{one['study_instance_uid']}: {one['outcome']}", one["reason"], one["job"], markup=False)


def _of_days(opened: Registry, days: int) -> list[str]:
    """Return the studies whose last image came in so many days, oldest first."""
    with opened.catalogue.read() as connection:
        return overview.studies_since(connection, now() - timedelta(days=days))


def replayed(opened: Registry, key: str, name: str, send: Settings | None = None) -> dict[str, Any]:
    """Open a job on a study; says why where the package cannot read it. `send`: the settings whose routes send it."""
    from appliance.catalogue import routing as decisions
    from appliance.routing import decide

    package = opened.package(name)
    with opened.catalogue.write() as connection:
        uid = overview.find_study(connection, key)
        told = {"study_instance_uid": uid, "outcome": "refused", "reason": NOT_ROUTED, "job": ""}
        if not decisions.is_routed(connection, uid):
            return told
        summary = decisions.study_summary(connection, uid)
        decision = decide(summary, {}, package.requirements)
        told |= {"outcome": decision.outcome, "reason": decision.reason}
        if decision.outcome != "job":
            return told
        made = _sent(connection, summary, package, send) if send else _shadow(connection, summary, package, decision)
        return told | made


def _shadow(connection: Connection, summary: StudySummary, package: Package, decision: RouteDecision) -> dict[str, str]:
    """Open the job whose results stay here, or say what became of it where this version was asked before."""
    from appliance.catalogue import adoption
    from appliance.catalogue import routing as decisions
    from appliance.catalogue.connection import now
    from appliance.catalogue.routing import RoutedPackage

    target = RoutedPackage("", package.id, package.version, package.digest, (), PRIORITY, shadow=True)
    job, new = decisions.open_shadow(connection, summary, target, decision, now())
    state, live = ("new", False) if new else adoption.replay(connection, job, now())
    if live and state in ("failed", "cancelled"):
        return {"outcome": state, "reason": f"as a job of a route; `curie jobs retry {job}` runs it again", "job": job}
    return {"outcome": FOUND.get(state, state), "job": job}


def _sent(connection: Connection, summary: StudySummary, package: Package, settings: Settings) -> dict[str, str]:
    """Let the routes of the package ask for this version, whatever answered them before."""
    from appliance.catalogue import adoption
    from appliance.catalogue import routing as decisions
    from appliance.catalogue.connection import now
    from appliance.catalogue.routing import RoutedPackage
    from appliance.routing import decide

    routes = [one for one in settings.routes if one.package.partition("@")[0] == package.id]
    accepted = {one.name: one.results for one in settings.destinations}
    job, again = "", 0
    for route in routes:
        decision = decide(summary, route.match, package.requirements)
        if decision.outcome != "job":
            continue
        target = RoutedPackage(
            route.name, package.id, package.version, package.digest, route.destinations, PRIORITY,
            negative=route.report_negative, accepted=accepted, anew=True,
        )  # fmt: skip
        decisions.record_decision(connection, summary, target, decision, now())
        job = decisions.job_of(connection, summary.study_instance_uid, route.name)
        again += adoption.send_again(connection, job, now())
    if not job:
        return {"outcome": "not_routed", "reason": f"no route that names {package.id} matches the study"}
    return {"outcome": "stored results are sent again" if again else "queued, to be sent", "job": job}

"""What programs read: `/healthz` and `/metrics` without a login and without a patient, `/api` with a session."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from appliance import __version__
from appliance.catalogue import flow, overview, processes
from appliance.catalogue.connection import now
from appliance.console.visit import Visit
from appliance.errors import Missing
from appliance.metrics import CONTENT_TYPE
from appliance.watch import alarms_now

NOT_KEPT = {"Cache-Control": "no-store"}
MOST_STUDIES = 200


def healthz(visit: Visit) -> Response:
    """Say whether the catalogue answers and every process that is needed beats: 200, else 503."""
    from appliance.cli.operate import is_ready

    told: dict[str, Any] = {"ready": False, "version": __version__}
    try:
        with visit.desk.catalogue.read() as connection:
            found = processes.listing(connection, now())
    except SQLAlchemyError:
        return JSONResponse({**told, "reason": "the catalogue does not answer"}, 503, NOT_KEPT)
    told["processes"] = [{"name": one["name"], "healthy": one["healthy"]} for one in found]
    told["ready"] = is_ready(found, visit.desk.settings)
    if not told["ready"]:
        told["reason"] = "a process that is needed does not beat"
    return JSONResponse(told, 200 if told["ready"] else 503, NOT_KEPT)


def metrics(visit: Visit) -> Response:
    """Return what a monitoring system scrapes."""
    return Response(visit.desk.metrics.exposition(), headers={**NOT_KEPT, "Content-Type": CONTENT_TYPE})


def status(visit: Visit) -> Response:
    """Return what `curie status --json` does, without the models."""
    from appliance.cli.operate import is_ready

    with visit.desk.catalogue.read() as connection:
        found = processes.listing(connection, now())
        told = overview.status(connection)
        told["alarms"] = [one.record() for one in alarms_now(visit.desk.settings, connection, now())]
    ready = is_ready(found, visit.desk.settings)
    return JSONResponse({"ready": ready, "version": __version__, "processes": found, **told}, headers=NOT_KEPT)


def studies(visit: Visit) -> Response:
    """Return the latest studies; Accession Numbers are left out."""
    with visit.desk.catalogue.read() as connection:
        found = flow.studies(connection, limit=MOST_STUDIES)
    told = [
        {
            "study_instance_uid": one["study_instance_uid"],
            "state": one["state"],
            "instances": one["instances"],
            "last_received_at": overview.iso(one["last_received_at"]),
            "outcomes": one["outcomes"],
        }
        for one in found
    ]
    return JSONResponse(told, headers=NOT_KEPT)


def study(visit: Visit) -> Response:
    """Return what `curie explain STUDY --json` does; the Accession Number is left out."""
    uid = visit.path["study"]
    with visit.desk.catalogue.read() as connection:
        try:
            told = overview.explain(connection, overview.find_study(connection, uid))
        except Missing as error:
            return JSONResponse({"reason": str(error)}, 404, NOT_KEPT)
    told.pop("accession_number")
    return JSONResponse(told, headers=NOT_KEPT)

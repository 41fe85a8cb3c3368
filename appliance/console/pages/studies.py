"""Where is this patient's study? The latest studies, and the search by Accession Number or Study Instance UID.

The search is a POST: an Accession Number stands in no address, history or log.
"""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from appliance.catalogue import flow, overview
from appliance.console.visit import Visit
from appliance.errors import Missing, SettingsError

SHOWN = 50
# what may be asked for: state of a job or of a decision → how the choice is called
CHOICES = {
    "": "all",
    "completed": "completed",
    "failed": "failed",
    "unsuitable": "unsuitable",
    "not_routed": "not routed",
    "queued": "queued",
    "running": "running",
    "delivering": "delivering",
}


def page(visit: Visit) -> Response:
    """Show the latest studies, or those before a moment."""
    wanted = visit.query.get("outcome", "")
    if wanted not in CHOICES:
        raise SettingsError(f"{wanted!r} is no outcome; there are: {', '.join(filter(None, CHOICES))}")
    with visit.desk.catalogue.read() as connection:
        found = flow.studies(connection, before=_moment(visit.query.get("before")), outcome_is=wanted, limit=SHOWN)
    last = found[-1]["last_received_at"].timestamp() if len(found) == SHOWN else None
    return visit.show("studies.html", studies=found, wanted=wanted, choices=CHOICES, last=last)


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        raise SettingsError("`before` is a number of seconds since 1970") from None


def search(visit: Visit) -> Response:
    """Go to the study that was named, or say that there is none. Several with one Accession Number are listed."""
    key = visit.form.get("key", "").strip()
    if not key:
        raise Missing("Write an Accession Number or a Study Instance UID into the field.")
    with visit.desk.catalogue.read() as connection:
        try:
            uid = overview.find_study(connection, key)
        except Missing as error:
            found = flow.studies(connection, accession=key, limit=SHOWN)
            if not found:
                return visit.show("nothing.html", 404, said=str(error))
            return visit.show("studies.html", studies=found, wanted="", choices=CHOICES, last=None)
    return RedirectResponse(f"/studies/{quote(uid)}", 303)

"""Audit: who did what, the latest first."""

from __future__ import annotations

from starlette.responses import Response

from appliance.catalogue import flow
from appliance.console.visit import Visit
from appliance.errors import SettingsError

SHOWN = 100
# kind → what it says; each is written by the page or command that did it, with who it was
KINDS = {
    "login": "logged in",
    "login_refused": "login refused",
    "logout": "logged out",
    "identifiers_shown": "patient identifiers shown",
    "job_retried": "job tried again",
    "destination_tested": "destination asked",
    "account_added": "account made",
    "account_removed": "account removed",
    "role_changed": "role changed",
    "password_changed": "password changed",
    "version_promoted": "version made active",
    "version_rolled_back": "went back to a version",
    "version_retired": "version retired",
    "version_shadowed": "version put in shadow",
    "version_left_shadow": "version taken out of shadow",
    "version_change_asked": "second person asked for",
    "patient_opted_out": "patient opted out of learning",
    "patient_opted_in": "opting out undone",
    "job_cancelled": "job cancelled",
    "study_forgotten": "study forgotten",
    "forgotten_study_returned": "forgotten study sent again",
}
WHO = ("who", "person")  # where an event holds who it was


def page(visit: Visit) -> Response:
    """Show what persons did, of one kind or all."""
    wanted, before = visit.query.get("kind", ""), visit.query.get("before", "")
    if wanted and wanted not in KINDS:
        raise SettingsError(f"{wanted!r} is no kind of entry")
    if before and not before.isdigit():
        raise SettingsError("`before` is the number of an entry")
    with visit.desk.catalogue.read() as connection:
        found = flow.happened(connection, [wanted] if wanted else list(KINDS), int(before) if before else None, SHOWN)
    entries = [
        {**one, "who": next((one["detail"][key] for key in WHO if one["detail"].get(key)), "")}
        | {"more": {key: value for key, value in one["detail"].items() if key not in WHO and value != ""}}
        for one in found
    ]
    last = found[-1]["seq"] if len(found) == SHOWN else None
    return visit.show("audit.html", entries=entries, kinds=KINDS, wanted=wanted, last=last)

"""Models: versions and their places, what each host runs them on, how they agree, and who made which one active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from appliance.catalogue import comparisons, events, packages
from appliance.console.visit import Visit
from appliance.errors import SettingsError
from appliance.package_life import VersionRow

BESIDE = ("shadow", "candidate")  # whose answers are held against the active version's
# what the form asks for → what goes on record
KINDS = {
    "promote": "version_promoted",
    "rollback": "version_rolled_back",
    "retire": "version_retired",
    "shadow": "version_shadowed",
    "unshadow": "version_left_shadow",
}
# state → what an administrator may ask for
OFFERED = {
    "candidate": ("promote", "shadow", "retire"),
    "shadow": ("promote", "unshadow", "retire"),
    "active": (),
    "retired": ("promote",),
    "installed": ("retire",),
}
ASKED = {
    "promote": "Make it active",
    "rollback": "Go back to the version before",
    "retire": "Retire",
    "shadow": "Run in shadow",
    "unshadow": "Take out of shadow",
}


def page(visit: Visit) -> Response:
    """Show every package with its versions."""
    with visit.desk.catalogue.read() as connection:
        rows = packages.versions(connection)
        names = list(dict.fromkeys(row.package for row in rows))
        told = [_package(connection, name, [row for row in rows if row.package == name]) for name in names]
    two = visit.desk.settings.models.two_person_promotion
    return visit.show("models.html", packages=told, asked=ASKED, offered=OFFERED, two_persons=two)


def _package(connection: Connection, name: str, rows: Sequence[VersionRow]) -> dict[str, Any]:
    changes = packages.changes(connection, name)
    active = next((row for row in rows if row.state == "active"), None)
    return {
        "name": name,
        "active": active,
        "versions": [_version(connection, row) for row in reversed(rows)],
        "compared": [_compared(connection, active, row) for row in rows if active and row.state in BESIDE],
        "waiting": packages.waiting_change(connection, name),
        "history": changes,
        "can_go_back": any(one.done_at and one.after and one.after != (active and active.version) for one in changes),
    }


def _version(connection: Connection, row: VersionRow) -> dict[str, Any]:
    engines = packages.engine_reports(connection, row.digest)
    return {"row": row, "engines": [{**one, "worst": _worst(one["parity"])} for one in engines]}


def _worst(parity: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the golden case on which an engine is farthest from the reference."""
    return dict(max(parity, key=lambda one: one["largest_of_range"])) if parity else None


def _compared(connection: Connection, active: VersionRow, row: VersionRow) -> dict[str, Any]:
    from appliance.cli.model_life import compared

    found = comparisons.between(connection, row.package, active.version, row.version)
    return {"version": row, **(compared(active, row, found) if found else {"all": None})}


def change(visit: Visit) -> Response:
    """Do what an administrator asks for, as `curie models …` does, with their name and reason."""
    kind, name, reason = (visit.form.get(key, "") for key in ("kind", "version", "reason"))
    if kind not in KINDS:
        raise SettingsError(f"{kind!r} is nothing that can be done with a version")
    done = _done(visit, kind, name, reason)
    package, _, number = name.partition("@")
    with visit.desk.catalogue.write() as connection:
        events.record(
            connection,
            KINDS[kind] if done else "version_change_asked",
            who=visit.visitor.name,
            package=package,
            version=number,
            reason=reason,
        )
    return RedirectResponse("/models", 303)


def _done(visit: Visit, kind: str, name: str, reason: str) -> bool:
    """Change the version; False where a second person is waited for."""
    from appliance.cli.model_life import make_active, put_in_shadow, retire_version
    from models.registry import Registry

    opened, who = Registry(visit.desk.settings, visit.desk.catalogue), visit.visitor.name
    if kind in ("promote", "rollback"):
        return make_active(opened, kind, name, who, reason)[2]
    if kind == "retire":
        retire_version(opened, name, who, reason)
    else:
        put_in_shadow(opened, name, off=kind == "unshadow")
    return True

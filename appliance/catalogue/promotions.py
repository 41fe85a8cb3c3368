"""Which version speaks: a person's word, or two persons', made true in one transaction and kept on record."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from appliance.catalogue import packages
from appliance.catalogue.adoption import withdraw_version
from appliance.errors import SettingsError
from appliance.package_life import Change, VersionRow


def decide(
    connection: Connection, kind: str, row: VersionRow, person: str, why: str, at: datetime, *, two_persons: bool
) -> tuple[Change, bool]:
    """Make `row` active, or note that a second person is awaited; returns the change, and whether it is done."""
    held = packages.active(connection, row.package)
    before = held.version if held else ""
    asked = packages.waiting_change(connection, row.package)
    if not two_persons:
        change = Change(row.package, kind, before, row.version, person, why, at, "", at)
    elif asked and (asked.kind, asked.after, asked.before) == (kind, row.version, before):
        if asked.person.casefold() == person.casefold():
            raise SettingsError(f"{row.name} waits for a second person; {person} asked for it")
        joined = f"{asked.reason} / {why}"
        change = Change(row.package, kind, before, row.version, asked.person, joined, asked.asked_at, person, at)
    else:
        change = Change(row.package, kind, before, row.version, person, why, at, "", None)
    packages.forget_waiting(connection, change)
    if change.done_at is not None:
        packages.make_active(connection, row, change, at)
        if held is not None and kind == "rollback":
            withdraw_version(connection, held, at)
    packages.record_change(connection, change)
    return change, change.done_at is not None

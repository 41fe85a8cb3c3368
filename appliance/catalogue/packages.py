"""Queries of package versions: which is active, who made it so, what each host runs it on. One active version at most.

A change is one transaction: the version that was active retires and the new one takes its place, with its reason.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, exc, insert, select, update

from appliance.catalogue import events
from appliance.catalogue.tables import engine_report, package_change, package_version
from appliance.errors import Missing, SettingsError
from appliance.package_life import Change, VersionRow, require_change, version_before, version_order


def _version(row: Row[Any]) -> VersionRow:
    return VersionRow(**row._mapping)


def versions(connection: Connection, package: str | None = None) -> list[VersionRow]:
    """Return the versions here, by package and rising version."""
    query = select(package_version)
    if package is not None:
        query = query.where(package_version.c.package == package)
    rows = [_version(row) for row in connection.execute(query)]
    return sorted(rows, key=lambda row: (row.package, version_order(row.version)))


def version(connection: Connection, package: str, number: str) -> VersionRow | None:
    """Return one version, None if it is not here."""
    where = (package_version.c.package == package, package_version.c.version == number)
    row = connection.execute(select(package_version).where(*where)).one_or_none()
    return _version(row) if row else None


def by_digest(connection: Connection, digest: str) -> VersionRow | None:
    """Return the version with this digest, None if it is not here."""
    row = connection.execute(select(package_version).where(package_version.c.digest == digest)).one_or_none()
    return _version(row) if row else None


def in_state(connection: Connection, package: str, state: str) -> list[VersionRow]:
    """Return the versions of a package in one state, by rising version."""
    return [row for row in versions(connection, package) if row.state == state]


def active(connection: Connection, package: str) -> VersionRow | None:
    """Return the active version of a package, None if there is none."""
    return next(iter(in_state(connection, package, "active")), None)


def add(connection: Connection, new: VersionRow) -> bool:
    """Record a version that was put into its place; False if the same one is here already.

    Raises SettingsError for a version number that is taken by other bytes.
    """
    known = version(connection, new.package, new.version)
    if known is not None and known.digest != new.digest:
        raise SettingsError(
            f"{new.name} is here already with another digest; a version never changes: raise its number"
        )
    if known is not None:
        return False
    connection.execute(insert(package_version).values(**new.__dict__))
    events.record(
        connection, "package_installed", package=new.package, version=new.version, digest=new.digest, signer=new.signer
    )
    return True


def set_state(connection: Connection, row: VersionRow, state: str, now: datetime, **detail: Any) -> None:
    """Change the state of a version; SettingsError if it may not, or changed meanwhile."""
    require_change(row, state)
    done = connection.execute(
        update(package_version)
        .where(package_version.c.digest == row.digest, package_version.c.state == row.state)
        .values(state=state, state_at=now)
    )
    if done.rowcount != 1:
        raise SettingsError(f"{row.name} was changed by somebody else meanwhile; look again with `curie models list`")
    events.record(connection, f"package_{state}", package=row.package, version=row.version, before=row.state, **detail)


def make_active(connection: Connection, row: VersionRow, change: Change, now: datetime) -> None:
    """Make `row` the active version; the one that was retires. Raises SettingsError if it may not."""
    require_change(row, "active")
    held = active(connection, row.package)
    if held is not None:
        set_state(connection, held, "retired", now, change=change.kind, replaced_by=row.version)
    who = {"person": change.person, "second_person": change.second_person}
    try:
        set_state(connection, row, "active", now, change=change.kind, **who, reason=change.reason)
    except exc.IntegrityError:
        raise SettingsError(
            f"another version of {row.package} became active this moment; look again with `curie models list`"
        ) from None


def passed(connection: Connection, row: VersionRow) -> bool:
    """Return whether a version was found good here: an engine agreed with its golden cases, or it was active before."""
    made_active = [one for one in changes(connection, row.package) if one.done_at and one.after == row.version]
    return bool(made_active or engine_reports(connection, row.digest))


def record_change(connection: Connection, change: Change) -> None:
    """Append one change of a package, or what waits for a second person."""
    connection.execute(insert(package_change).values(**change.__dict__))
    if change.done_at is None:
        _record_asked(connection, "package_change_asked", change)


def _record_asked(connection: Connection, kind: str, change: Change, **detail: str) -> None:
    events.record(
        connection,
        kind,
        package=change.package,
        version=change.after,
        change=change.kind,
        person=change.person,
        reason=change.reason,
        **detail,
    )


def waiting_change(connection: Connection, package: str) -> Change | None:
    """Return the change of a package that waits for a second person, None if there is none."""
    where = (package_change.c.package == package, package_change.c.done_at.is_(None))
    rows = connection.execute(select(package_change).where(*where).order_by(package_change.c.id.desc())).all()
    return _change(rows[0]) if rows else None


def forget_waiting(connection: Connection, new: Change) -> None:
    """Remove what waits for a second person: `new` does it, or asks for something else."""
    waits = waiting_change(connection, new.package)
    if waits is None:
        return
    if not new.second_person:
        _record_asked(connection, "package_change_dropped", waits, dropped_by=new.person)
    where = (package_change.c.package == new.package, package_change.c.done_at.is_(None))
    connection.execute(delete(package_change).where(*where))


def changes(connection: Connection, package: str) -> list[Change]:
    """Return all changes of a package, newest first."""
    query = select(package_change).where(package_change.c.package == package).order_by(package_change.c.id.desc())
    return [_change(row) for row in connection.execute(query)]


def _change(row: Row[Any]) -> Change:
    return Change(**{key: value for key, value in row._mapping.items() if key != "id"})


def before_active(connection: Connection, package: str) -> VersionRow:
    """Return the version that a rollback goes to: the one active before. Raises Missing if there is none."""
    held = active(connection, package)
    number = version_before(changes(connection, package), held.version if held else None)
    row = version(connection, package, number) if number else None
    if row is None:
        raise Missing(
            f"there is no version of {package} to go back to: none was active before, or a rollback left it already; "
            f"`curie models show {package}` tells its history, `curie models rollback {package}@VERSION` names one"
        )
    return row


def named_before(connection: Connection, package: str, number: str) -> VersionRow:
    """Return a version that a person names for a rollback. Raises Missing unless it was active before."""
    row = version(connection, package, number)
    if row is None or not any(one.done_at and one.after == number for one in changes(connection, package)):
        raise Missing(f"{package}@{number} was never active here; `curie models show {package}` tells its history")
    return row


def keep_engine_report(connection: Connection, report: dict[str, Any], now: datetime) -> None:
    """Record what a host's device runs a package on: the columns of `engine_report`, without the time.

    A package that was loaded and has not run yet keeps the memory it was measured to need before.
    """
    where = [engine_report.c[name] == report[name] for name in ("host", "device", "package_digest")]
    values = {**report, "at": now}
    if report["memory_mb"] is None:
        del values["memory_mb"]
    if not connection.execute(update(engine_report).where(*where).values(**values)).rowcount:
        connection.execute(insert(engine_report).values(**values))


def engine_reports(connection: Connection, digest: str) -> list[dict[str, Any]]:
    """Return what each host and device runs a package on, newest first."""
    query = select(engine_report).where(engine_report.c.package_digest == digest).order_by(engine_report.c.at.desc())
    return [dict(row._mapping) for row in connection.execute(query)]

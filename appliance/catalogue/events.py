"""Append-only events: what happened, in the past tense, with ids and numbers only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from appliance.catalogue.connection import now
from appliance.catalogue.tables import event


def record(connection: Connection, kind: str, *, study: str = "", job: str = "", **detail: Any) -> None:
    """Append one event in the caller's transaction."""
    connection.execute(insert(event).values(at=now(), kind=kind, study_instance_uid=study, job_id=job, detail=detail))


def of_study(connection: Connection, study: str) -> list[dict[str, Any]]:
    """Return the events of a study, oldest first."""
    rows = connection.execute(select(event).where(event.c.study_instance_uid == study).order_by(event.c.seq))
    return [dict(row) for row in rows.mappings()]


def of_job(connection: Connection, job: str) -> list[dict[str, Any]]:
    """Return the events of a job, oldest first."""
    rows = connection.execute(select(event).where(event.c.job_id == job).order_by(event.c.seq))
    return [dict(row) for row in rows.mappings()]


def last_detail(connection: Connection, kind: str) -> dict[str, Any]:
    """Return the detail of the newest event of a kind, nothing where there is none."""
    query = select(event.c.detail).where(event.c.kind == kind).order_by(event.c.seq.desc()).limit(1)
    return connection.execute(query).scalar() or {}


def details_since(connection: Connection, kind: str, since: datetime) -> list[dict[str, Any]]:
    """Return the details of the events of a kind from a moment on, oldest first."""
    query = select(event.c.detail).where(event.c.kind == kind, event.c.at >= since).order_by(event.c.seq)
    return list(connection.execute(query).scalars())


def count_since(connection: Connection, kind: str, since: datetime) -> int:
    """Return how many events of a kind there were from a moment on."""
    query = select(func.count()).select_from(event).where(event.c.kind == kind, event.c.at >= since)
    return int(connection.execute(query).scalar_one())


def open_alarms(connection: Connection) -> list[str]:
    """Return the alarms that were raised and not cleared."""
    rows = connection.execute(
        select(event.c.kind, event.c.detail)
        .where(event.c.kind.in_(("alarm_raised", "alarm_cleared")))
        .order_by(event.c.seq)
    )
    found = {row.detail["name"]: row.kind for row in rows}
    return sorted(name for name, kind in found.items() if kind == "alarm_raised")


def clock_ahead_s(connection: Connection) -> float:
    """Return by how many seconds the catalogue is ahead of this host: its newest event, or its server's clock."""
    at = now()
    newest = connection.execute(select(event.c.at).order_by(event.c.seq.desc()).limit(1)).scalar()
    ahead = (newest - at).total_seconds() if newest else 0.0
    if connection.dialect.name == "postgresql":
        told = connection.execute(select(func.now())).scalar_one()
        ahead = max(ahead, abs((told - at).total_seconds()))
    return ahead

"""Append-only events: what happened, in the past tense, with ids and numbers only."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select

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

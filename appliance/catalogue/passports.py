"""Queries of the passport of a job's results: what went in, who answers for the package, when, and where it went."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from appliance.catalogue import packages
from appliance.catalogue.tables import instance, job, job_input, rejection, result


def passport(connection: Connection, job_id: str) -> dict[str, Any]:
    """Return what the catalogue knows of how a job's results came about."""
    row = connection.execute(select(job).where(job.c.id == job_id)).one()
    made_at = connection.execute(select(func.min(result.c.created_at)).where(result.c.job_id == job_id)).scalar()
    return {
        "input_set": row.input_set,
        "inputs": inputs(connection, job_id),
        "package": row.package,
        "version": row.package_version,
        "package_digest": row.package_digest,
        **_vouched(connection, row.package, row.package_version, row.package_digest, row.created_at),
        "engine": row.engine,
        "worker": row.worker,
        "attempts": row.attempts,
        "queued_at": _iso(row.created_at),
        "started_at": _iso(row.started_at),
        "made_at": _iso(made_at),  # when the results were written; the job ends when they are delivered
        "finished_at": _iso(row.finished_at),
        "supersedes": row.supersedes or "",
        "rejected_inputs": _rejected(connection, job_id),
    }


def inputs(connection: Connection, job_id: str) -> list[dict[str, Any]]:
    """Return every instance that a job read, with the digests of its content and when it came."""
    rows = connection.execute(
        select(
            instance.c.sop_instance_uid,
            instance.c.series_instance_uid,
            instance.c.revision,
            instance.c.header_digest,
            instance.c.pixel_digest,
            instance.c.received_at,
        )
        .join(job_input, job_input.c.instance_id == instance.c.id)
        .where(job_input.c.job_id == job_id)
        .order_by(instance.c.series_instance_uid, instance.c.number, instance.c.sop_instance_uid)
    ).all()
    return [{**row._mapping, "received_at": _iso(row.received_at)} for row in rows]


def _vouched(connection: Connection, package: str, version: str, digest: str, at: datetime) -> dict[str, Any]:
    """Return whose key signed the package, and who had made it active when the job was opened."""
    held = packages.by_digest(connection, digest)
    made = [
        one
        for one in packages.changes(connection, package)
        if one.after == version and one.done_at is not None and one.done_at <= at
    ]
    last = max(made, key=lambda one: one.done_at or at, default=None)
    promoted = None
    if last is not None:
        promoted = {
            "kind": last.kind,
            "by": last.person,
            "second_person": last.second_person,
            "reason": last.reason,
            "at": _iso(last.done_at),
        }
    return {"signed_by": held.signer if held else "", "promoted": promoted}


def _rejected(connection: Connection, job_id: str) -> list[dict[str, Any]]:
    rows = connection.execute(
        select(rejection.c.sop_instance_uid, rejection.c.code, rejection.c.note_uid, rejection.c.at)
        .join(job_input, job_input.c.sop_instance_uid == rejection.c.sop_instance_uid)
        .where(job_input.c.job_id == job_id)
    ).all()
    return [{**row._mapping, "at": _iso(row.at)} for row in rows]


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds") if at else None

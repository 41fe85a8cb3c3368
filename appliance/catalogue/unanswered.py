"""Queries of reports that no result could be made: for a route that asks for them, once for study and package.

Such a report is a job of its own: no model runs for it, its result says why (`tells`). A result that comes later
replaces it. A study that contradicts itself (images of two patients) gets none: nobody can say whose it would be.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update

from appliance.catalogue import events
from appliance.catalogue.outbox import withdraw
from appliance.catalogue.tables import instance, job, job_destination, job_input, outcome
from appliance.job import NAMESPACE

NO_RESULT = ("failed", "unsuitable")


def untold(connection: Connection, routes: Sequence[str]) -> list[Any]:
    """Return the outcomes of these routes without a result, and without a report that says so, with their reason."""
    if not routes:
        return []
    ended = outcome.outerjoin(job, job.c.id == outcome.c.job_id)
    told = job.alias("told")
    said = select(told.c.id).where(
        told.c.study_instance_uid == outcome.c.study_instance_uid,
        told.c.package == outcome.c.package,
        told.c.tells != "",
    )
    query = (
        select(
            outcome.c.study_instance_uid,
            outcome.c.route,
            outcome.c.package,
            outcome.c.package_version,
            outcome.c.job_id,
            outcome.c.reason.label("decided"),
            job.c.reason.label("ended"),
            job.c.package_digest,
        )
        .select_from(ended)
        .where(outcome.c.route.in_(routes), ~said.exists())
        .where(or_(outcome.c.outcome.in_(NO_RESULT), job.c.state.in_(NO_RESULT)))
    )
    return list(connection.execute(query).all())


def open_report(
    connection: Connection, row: Any, destinations: Sequence[str], priority: int, now: datetime
) -> str | None:
    """Open the job that tells of one such outcome; None where the study has no image to tell it of."""
    images = _images(connection, row)
    if not images:
        return None
    identity = str(uuid.uuid5(NAMESPACE, f"told|{row.study_instance_uid}|{row.package}"))
    reason = (row.ended or row.decided or "").strip()
    connection.execute(
        insert(job).values(
            id=identity,
            study_instance_uid=row.study_instance_uid,
            series_instance_uid=images[0].series_instance_uid,
            inputs=[["images", uid] for uid in dict.fromkeys(one.series_instance_uid for one in images)],
            package=row.package,
            package_version=row.package_version,
            package_digest=row.package_digest or "",
            input_set="",
            priority=priority,
            state="queued",
            tells=reason,
            due_at=now,
            created_at=now,
            timings={},
            findings=[],
        )
    )
    connection.execute(
        insert(job_input),
        [{"job_id": identity, "sop_instance_uid": one.sop_instance_uid, "instance_id": one.id} for one in images],
    )
    connection.execute(
        insert(job_destination), [{"job_id": identity, "destination": name, "negative": 1} for name in destinations]
    )
    events.record(connection, "failure_told", study=row.study_instance_uid, job=identity, package=row.package)
    return identity


def _images(connection: Connection, row: Any) -> list[Any]:
    """Return what could not be read: the failed job's images, or all of the study."""
    columns = (instance.c.id, instance.c.sop_instance_uid, instance.c.series_instance_uid)
    query = select(*columns).where(instance.c.study_instance_uid == row.study_instance_uid)
    if row.job_id:
        query = query.join(job_input, job_input.c.instance_id == instance.c.id).where(job_input.c.job_id == row.job_id)
    found = query.where(instance.c.state == "current", instance.c.file_removed == 0)
    return list(connection.execute(found.order_by(instance.c.series_instance_uid, instance.c.id)).all())


def answered(connection: Connection, study_uid: str, package: str, now: datetime) -> None:
    """End the report that there is no result, for now there is one; what waits of it is not sent."""
    ended = connection.execute(
        update(job)
        .where(job.c.study_instance_uid == study_uid, job.c.package == package, job.c.tells != "")
        .where(job.c.state.in_(("queued", "running", "delivering", "completed")))
        .values(state="superseded", reason="a result was made", finished_at=now, token=job.c.token + 1)
        .returning(job.c.id)
    )
    for id in ended.scalars().all():
        withdraw(connection, id, "a result was made")

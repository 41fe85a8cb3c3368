"""Queries of retention: which spool files nobody needs any more. It must never name a file that a job reads.

Files count from when their instance came first, of which evidence and passports speak. Where removed ones came again,
the whole study counts from the event that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, and_, or_, select, update

from appliance.catalogue.tables import event, instance, job, job_input, outbox, study

CAME_AGAIN = "removed_images_returned"


def removable_files(connection: Connection, before: datetime, limit: int = 500) -> list[tuple[int, str]]:
    """Return (row id, path) of spool files from before a moment that no job or delivery needs, oldest first."""
    needed = (
        select(job_input.c.instance_id)
        .join(job, job.c.id == job_input.c.job_id)
        .where(job.c.state.in_(("queued", "running", "delivering")))
    )
    waiting = (
        select(job_input.c.instance_id)
        .join(outbox, outbox.c.job_id == job_input.c.job_id)
        .where(outbox.c.state == "waiting")
    )
    receiving = select(study.c.study_instance_uid).where(or_(study.c.state == "receiving", study.c.routed == 0))
    again = select(event.c.study_instance_uid).where(event.c.kind == CAME_AGAIN, event.c.at >= before)
    rows = connection.execute(
        select(instance.c.id, instance.c.path)
        .where(
            and_(
                instance.c.file_removed == 0,
                instance.c.received_at < before,
                instance.c.id.not_in(needed),
                instance.c.id.not_in(waiting),
                instance.c.study_instance_uid.not_in(receiving),
                instance.c.study_instance_uid.not_in(again),
            )
        )
        .order_by(instance.c.received_at)
        .limit(limit)
    ).all()
    return [(row.id, row.path) for row in rows]


def mark_removed(connection: Connection, ids: Sequence[int]) -> None:
    """Record that spool files are about to be deleted; the records stay."""
    connection.execute(update(instance).where(instance.c.id.in_(ids)).values(file_removed=1))


def removed_among(connection: Connection, paths: Sequence[str]) -> dict[str, datetime]:
    """Return of these relative paths those that were to be deleted, and when their instance came."""
    found: dict[str, datetime] = {}
    for at in range(0, len(paths), 500):
        query = select(instance.c.path, instance.c.received_at).where(
            instance.c.file_removed == 1, instance.c.path.in_(paths[at : at + 500])
        )
        found |= {row.path: row.received_at for row in connection.execute(query)}
    return found

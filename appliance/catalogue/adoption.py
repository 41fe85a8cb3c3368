"""Queries of jobs that change sides: one from a shadow answers a route, one of a withdrawn version answers none.

Nothing runs twice for it, and nothing that a route asks for stays here: what a job made is addressed like any result.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from appliance.catalogue import events, forgetting, jobs, outbox, unanswered
from appliance.catalogue.tables import job, study
from appliance.catalogue.tables import outbox as outbox_table
from appliance.package_life import VersionRow


def adopt(
    connection: Connection,
    job_id: str,
    priority: int,
    accepted: Mapping[str, tuple[str, ...]],
    supersedes: str | None,
    now: datetime,
) -> None:
    """Let a known job answer a route, once the route's outcome names it. `accepted`: roles that a destination takes."""
    row = connection.execute(select(job).where(job.c.id == job_id)).one()
    gone = forgetting.answer_is_gone(connection, row)
    made = bool(jobs.results_of(connection, job_id)) and not row.tells and not gone
    if row.shadow:
        _leave_shadow(connection, row, priority, supersedes)
    if not made and row.state != "queued" and (row.shadow or row.state == "superseded" or gone):
        if gone:
            outbox.drop(connection, job_id)
        ask_again(connection, row, now)
    if made and row.shadow:
        unanswered.answered(connection, row.study_instance_uid, row.package, now)
        if supersedes:
            jobs.supersede_replaced(connection, row.study_instance_uid, supersedes, now)
    if outbox.address(connection, job_id, accepted, now):
        connection.execute(
            update(job)
            .where(job.c.id == job_id, job.c.state == "completed")
            .values(state="delivering", finished_at=None)
        )


def _leave_shadow(connection: Connection, row: Any, priority: int, supersedes: str | None) -> None:
    """From now on the job's results go to the route's destinations."""
    connection.execute(
        update(job)
        .where(job.c.id == row.id)
        .values(shadow=0, priority=min(row.priority, priority), supersedes=supersedes)
    )
    events.record(connection, "job_left_shadow", study=row.study_instance_uid, job=row.id, state=row.state)


def ask_again(connection: Connection, row: Any, now: datetime) -> None:
    """Queue a job without results anew; a worker that runs it meanwhile is fenced."""
    connection.execute(
        update(job)
        .where(job.c.id == row.id)
        .values(
            state="queued",
            reason="",
            attempts=0,
            errors=0,
            token=job.c.token + 1,
            lease_until=None,
            due_at=now,
            finished_at=None,
        )
    )
    events.record(connection, "job_queued", study=row.study_instance_uid, job=row.id, before=row.state)


def replay(connection: Connection, job_id: str, now: datetime) -> tuple[str, bool]:
    """Queue a known job again in shadow if no route wants it and it ended without an answer.

    Returns the state it was found in, "completed" whatever became of its results, and whether a route asks for it.
    """
    row = connection.execute(select(job).where(job.c.id == job_id)).one()
    if jobs.results_of(connection, job_id) and not row.tells:
        return "completed", not row.shadow
    if row.state == "superseded":
        connection.execute(update(job).where(job.c.id == job_id).values(shadow=1))
    elif not row.shadow:
        return row.state, True
    if row.state in ("failed", "cancelled", "superseded"):
        ask_again(connection, row, now)
    return row.state, False


def send_again(connection: Connection, job_id: str, now: datetime) -> int:
    """Let the stored results of a job be sent once more, the same bytes; returns how many, none of an open job."""
    row = connection.execute(select(job.c.state, job.c.study_instance_uid).where(job.c.id == job_id)).one()
    if row.state not in ("delivering", "completed"):
        return 0
    done = connection.execute(
        update(outbox_table)
        .where(outbox_table.c.job_id == job_id, outbox_table.c.state.in_(("delivered", "committed", "rejected")))
        .values(state="waiting", due_at=now, tries=0, answer="", transaction_uid=None)
    )
    if done.rowcount:
        connection.execute(update(job).where(job.c.id == job_id).values(state="delivering", finished_at=None))
        events.record(connection, "results_sent_again", study=row.study_instance_uid, job=job_id, count=done.rowcount)
    return int(done.rowcount)


def withdraw_version(connection: Connection, version: VersionRow, now: datetime) -> None:
    """End what a version was still to read, and let those studies be routed anew; results that are made stay.

    A version that runs in shadow has nobody waiting for it: only its jobs end.
    """
    ended = connection.execute(
        update(job)
        .where(job.c.package_digest == version.digest, job.c.tells == "", job.c.state.in_(("queued", "running")))
        .values(state="superseded", reason=f"{version.name} was withdrawn", finished_at=now, token=job.c.token + 1)
        .returning(job.c.id, job.c.study_instance_uid, job.c.shadow)
    ).all()
    for row in ended:
        events.record(
            connection, "job_superseded", study=row.study_instance_uid, job=row.id, reason=f"{version.name} withdrawn"
        )
    waiting = {row.study_instance_uid for row in ended if not row.shadow}
    connection.execute(update(study).where(study.c.study_instance_uid.in_(waiting)).values(routed=0))

"""What a person orders of a job: to be tried again, or to end. Each order is one event, with the person's name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from appliance.catalogue import events, notices
from appliance.catalogue.forgetting import forgotten
from appliance.catalogue.jobs import results_of
from appliance.catalogue.tables import job, outbox, outcome
from appliance.errors import Missing, SettingsError
from appliance.job import may_become


def retry(connection: Connection, job_id: str, who: str, now: datetime) -> str:
    """Queue a failed, unsuitable or cancelled job again, or its rejected deliveries, and what recipients refused.

    Returns the new state. Raises Missing, and SettingsError where there is nothing to try again.
    """
    row = _row(connection, job_id)
    told_again = notices.retry(connection, job_id, now)
    state = str(row.state) if told_again and row.state == "completed" else _again(connection, row, now)
    events.record(connection, "job_retried", study=row.study_instance_uid, job=job_id, who=who)
    return state


def _again(connection: Connection, row: Any, now: datetime) -> str:
    """Queue a job that ended, or what destinations rejected of its results. Returns the new state."""
    if row.state in ("running", "superseded") or row.state not in may_become("queued"):
        raise SettingsError(f"job {row.id} is {row.state}; only failed, unsuitable or cancelled jobs can be retried")
    _refuse_blocked(connection, row)
    has_results = bool(results_of(connection, row.id))
    state = "delivering" if has_results else "queued"
    anew = {} if has_results else {"attempts": 0, "errors": 0}
    values = {"state": state, "reason": "", "due_at": now, "finished_at": None}
    connection.execute(update(job).where(job.c.id == row.id).values(**values, **anew))
    connection.execute(
        update(outbox)
        .where(outbox.c.job_id == row.id, outbox.c.state == "rejected")
        .values(state="waiting", due_at=now, tries=0, answer="")
    )
    return state


def _refuse_blocked(connection: Connection, row: Any) -> None:
    """Raise SettingsError when no result of the study may leave: it was forgotten, or contradicts itself."""
    gone = forgotten(connection, row.study_instance_uid)
    if gone is not None:
        raise SettingsError(f"job {row.id} cannot be retried: its study was {gone}")
    blocked = connection.execute(
        select(outcome.c.reason).where(
            outcome.c.study_instance_uid == row.study_instance_uid,
            outcome.c.package == row.package,
            outcome.c.outcome == "failed",
            outcome.c.job_id.is_(None),
        )
    ).scalar()
    if blocked:
        raise SettingsError(f"job {row.id} cannot be retried: {blocked}")


def cancel(connection: Connection, job_id: str, who: str, now: datetime) -> None:
    """Cancel a job that has no results yet; a running one is stopped at its next heartbeat."""
    row = _row(connection, job_id)
    done = connection.execute(
        update(job)
        .where(job.c.id == job_id, job.c.state.in_(may_become("cancelled")))
        .values(state="cancelled", reason="cancelled by an operator", finished_at=now, token=job.c.token + 1)
    )
    if done.rowcount != 1:
        raise SettingsError(f"job {job_id} is {row.state}; only queued or running jobs can be cancelled")
    events.record(connection, "job_cancelled", study=row.study_instance_uid, job=job_id, who=who)


def _row(connection: Connection, job_id: str) -> Any:
    row = connection.execute(select(job).where(job.c.id == job_id)).one_or_none()
    if row is None:
        raise Missing(f"there is no job {job_id}; `curie jobs list` shows them")
    return row

"""Queries of notices: what others are told about a job, beside its results. No notice ever fails a job.

A row is waiting, sent, or refused: then it waits for an operator (`curie jobs retry`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from appliance.catalogue import events
from appliance.catalogue.tables import job, notice, outbox, outcome, result, study
from appliance.errors import Missing

AVAILABILITY, OBSERVATIONS = "ian", "oru"
STATES = ("waiting", "sent", "refused")


@dataclass(frozen=True)
class Notice:
    """One thing that one recipient is to be told."""

    id: int
    kind: str
    job_id: str
    recipient: str
    tries: int


@dataclass(frozen=True)
class Told:
    """What a notice speaks of: the job, and its objects as (class, instance, series, role, path)."""

    job_id: str
    study_instance_uid: str
    accession_number: str
    package: str
    package_version: str
    urgent: bool
    tells: str
    created_at: datetime
    finished_at: datetime | None
    findings: list[dict[str, Any]]
    objects: tuple[tuple[str, str, str, str, str], ...]


def opened(connection: Connection, kind: str, job_id: str, recipient: str, now: datetime) -> bool:
    """Write a notice that is to be sent, once; False where it is known."""
    known = select(notice.c.id).where(notice.c.kind == kind, notice.c.job_id == job_id, notice.c.recipient == recipient)
    if connection.execute(known).first():
        return False
    connection.execute(
        insert(notice).values(kind=kind, job_id=job_id, recipient=recipient, state="waiting", due_at=now, opened_at=now)
    )
    return True


def open_availability(connection: Connection, job_id: str, destination: str, now: datetime) -> bool:
    """Open the notice that a job's results are available, once all are at the destination."""
    here = (outbox.c.job_id == job_id, outbox.c.destination == destination)
    states = set(connection.execute(select(outbox.c.state).where(*here)).scalars())
    if not states & {"delivered", "committed"} or states & {"waiting", "rejected"}:
        return False
    return opened(connection, AVAILABILITY, job_id, destination, now)


def open_observations(
    connection: Connection, job_id: str, receivers: Iterable[tuple[str, tuple[str, ...]]], now: datetime
) -> None:
    """Open a message for each receiver whose routes the job answers. `receivers`: name, routes; no route: all."""
    routes = set(connection.execute(select(outcome.c.route).where(outcome.c.job_id == job_id)).scalars())
    for name, wanted in receivers:
        if not wanted or routes & set(wanted):
            opened(connection, OBSERVATIONS, job_id, name, now)


def due(connection: Connection, now: datetime, limit: int = 100) -> list[Notice]:
    """Return the notices that are due, oldest first."""
    rows = connection.execute(
        select(notice.c.id, notice.c.kind, notice.c.job_id, notice.c.recipient, notice.c.tries)
        .where(notice.c.state == "waiting", notice.c.due_at <= now)
        .order_by(notice.c.id)
        .limit(limit)
    ).all()
    return [Notice(**row._mapping) for row in rows]


def told(connection: Connection, one: Notice) -> Told:
    """Return what a notice speaks of; an availability only of what its destination has. Raises Missing."""
    row = connection.execute(
        select(job, study.c.accession_number)
        .join(study, study.c.study_instance_uid == job.c.study_instance_uid)
        .where(job.c.id == one.job_id)
    ).one_or_none()
    if row is None:
        raise Missing(f"there is no job {one.job_id} any more")
    return Told(
        job_id=row.id,
        study_instance_uid=row.study_instance_uid,
        accession_number=row.accession_number,
        package=row.package,
        package_version=row.package_version,
        urgent=row.priority == 0,
        tells=row.tells,
        created_at=row.created_at,
        finished_at=row.finished_at,
        findings=row.findings,
        objects=_objects(connection, one),
    )


def _objects(connection: Connection, one: Notice) -> tuple[tuple[str, str, str, str, str], ...]:
    columns = (
        result.c.sop_class_uid,
        result.c.sop_instance_uid,
        result.c.series_instance_uid,
        result.c.role,
        result.c.path,
    )
    query = select(*columns).where(result.c.job_id == one.job_id).order_by(result.c.role, result.c.sop_instance_uid)
    sent = select(outbox.c.sop_instance_uid).where(
        outbox.c.job_id == one.job_id, outbox.c.state.in_(("delivered", "committed"))
    )
    if one.kind == AVAILABILITY:
        sent = sent.where(outbox.c.destination == one.recipient)
    return tuple(tuple(row) for row in connection.execute(query.where(result.c.sop_instance_uid.in_(sent))))


def sent(connection: Connection, one: Notice, answer: str, now: datetime) -> None:
    """Record that the recipient took a notice."""
    connection.execute(update(notice).where(notice.c.id == one.id).values(state="sent", sent_at=now, answer=answer))
    events.record(connection, "notice_sent", job=one.job_id, notice=one.kind, to=one.recipient)


def put_off(connection: Connection, one: Notice, answer: str, due_at: datetime) -> None:
    """Record a try in vain; the notice is due again later. The first one is an event, the others are counted."""
    values = {"tries": notice.c.tries + 1, "answer": answer, "due_at": due_at}
    connection.execute(update(notice).where(notice.c.id == one.id).values(**values))
    if one.tries == 0:
        events.record(connection, "notice_put_off", job=one.job_id, notice=one.kind, to=one.recipient, answer=answer)


def refused(connection: Connection, one: Notice, answer: str) -> None:
    """Record a refusal that will not change by itself; an operator may retry."""
    values = {"state": "refused", "answer": answer, "tries": notice.c.tries + 1}
    connection.execute(update(notice).where(notice.c.id == one.id).values(**values))
    events.record(connection, "notice_refused", job=one.job_id, notice=one.kind, to=one.recipient, answer=answer)


def retry(connection: Connection, job_id: str, now: datetime) -> int:
    """Send the refused notices of a job again; returns how many."""
    done = connection.execute(
        update(notice)
        .where(notice.c.job_id == job_id, notice.c.state == "refused")
        .values(state="waiting", tries=0, answer="", due_at=now)
    )
    return int(done.rowcount)


def of_job(connection: Connection, job_id: str) -> list[dict[str, Any]]:
    """Return the notices of a job: kind, recipient, state, tries and the last answer."""
    columns = (notice.c.kind, notice.c.recipient, notice.c.state, notice.c.tries, notice.c.answer)
    rows = connection.execute(select(*columns).where(notice.c.job_id == job_id).order_by(notice.c.id))
    return [dict(row) for row in rows.mappings()]


def counts(connection: Connection) -> dict[str, int]:
    """Return how many notices are in each state."""
    rows = connection.execute(select(notice.c.state, func.count()).group_by(notice.c.state)).all()
    found = {state: int(number) for state, number in rows}
    return {state: found.get(state, 0) for state in STATES}

"""Queries of delivery: what waits, what was sent, what the destination vouches for.

A row is in one state: waiting → delivered → committed, or rejected, or withdrawn (it is not to go there, which fails
nothing). The bytes are those of the results folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from appliance.catalogue import events
from appliance.catalogue.tables import commitment_report, job, job_destination, outbox, result

NOT_SENT = "not sent: "  # begins the answer of what was withdrawn by us; else the destination does not take it


@dataclass(frozen=True)
class Parcel:
    """One result on its way to one destination."""

    id: int
    job_id: str
    sop_instance_uid: str
    sop_class_uid: str
    path: str
    sha256: str
    destination: str
    state: str
    tries: int
    transaction_uid: str | None
    variant: str
    role: str
    losses: int  # how often the destination took it and then said that it does not hold it


def _parcels(connection: Connection, *where: Any) -> list[Parcel]:
    rows = connection.execute(
        select(
            outbox.c.id,
            outbox.c.job_id,
            outbox.c.sop_instance_uid,
            result.c.sop_class_uid,
            result.c.path,
            result.c.sha256,
            outbox.c.destination,
            outbox.c.state,
            outbox.c.tries,
            outbox.c.transaction_uid,
            outbox.c.variant,
            result.c.role,
            outbox.c.losses,
        )
        .join(result, result.c.sop_instance_uid == outbox.c.sop_instance_uid)
        .where(*where)
        .order_by(outbox.c.id)
    ).all()
    return [Parcel(**row._mapping) for row in rows]


def address(connection: Connection, job_id: str, accepted: Mapping[str, tuple[str, ...]], now: datetime) -> int:
    """Write a row for each result of a job and destination that takes it and has none; returns how many are new.

    `accepted`: destination name → roles it takes. What a shadow made goes nowhere, nor does a result without a
    finding where every route to the destination has `report_negative = false`.
    """
    there = select(outbox.c.id).where(
        outbox.c.sop_instance_uid == result.c.sop_instance_uid, outbox.c.destination == job_destination.c.destination
    )
    rows = connection.execute(
        select(
            result.c.sop_instance_uid,
            result.c.role,
            result.c.variant,
            job_destination.c.destination,
            job_destination.c.negative,
            job.c.findings,
            job.c.tells,
        )
        .join(job, job.c.id == result.c.job_id)
        .join(job_destination, job_destination.c.job_id == job.c.id)
        .where(job.c.id == job_id, job.c.shadow == 0, ~there.exists())
        .order_by(job_destination.c.destination, result.c.role, result.c.sop_instance_uid)
    ).all()
    new = [
        {
            "sop_instance_uid": row.sop_instance_uid,
            "job_id": job_id,
            "destination": row.destination,
            "state": "waiting",
            "due_at": now,
            "variant": row.variant,
        }
        for row in rows
        if _takes(row, accepted.get(row.destination, ()))
    ]
    if new:
        connection.execute(insert(outbox), new)
    return len(new)


def _takes(row: Any, roles: Sequence[str]) -> bool:
    """Tell whether a destination that takes these roles is to have a result."""
    if row.role not in roles or (row.variant == "labelmap" and "LABELMAP" not in roles):
        return False
    return bool(row.negative or row.tells or any(one.get("present", True) for one in row.findings))


def choose_variant(connection: Connection, destination: str, job_id: str, chosen: str) -> None:
    """Withdraw what stands for the same as the chosen variant, of this job at this destination."""
    connection.execute(
        update(outbox)
        .where(outbox.c.destination == destination, outbox.c.job_id == job_id, outbox.c.state == "waiting")
        .where(outbox.c.variant.not_in(("", chosen)))
        .values(state="withdrawn", answer=f"{NOT_SENT}the {chosen} form was")
    )


def withdraw(connection: Connection, job_id: str, reason: str) -> int:
    """Take back what waits of a job's results; returns how many. What a destination has is left to retractions."""
    done = connection.execute(
        update(outbox)
        .where(outbox.c.job_id == job_id, outbox.c.state == "waiting")
        .values(state="withdrawn", answer=f"{NOT_SENT}{reason}")
    )
    return int(done.rowcount)


def drop(connection: Connection, job_id: str) -> None:
    """Drop the rows of a job's results, of which no file is here any more; the events of their delivery stay."""
    connection.execute(delete(outbox).where(outbox.c.job_id == job_id))
    connection.execute(delete(result).where(result.c.job_id == job_id))


def not_taken_by(connection: Connection) -> list[dict[str, Any]]:
    """Return what destinations were offered and do not take: destination, role, how often, and the latest answer."""
    refused = (outbox.c.state == "withdrawn", outbox.c.answer.not_like(f"{NOT_SENT}%"))
    latest = (
        select(outbox.c.destination, result.c.role, func.count().label("count"), func.max(outbox.c.id).label("id"))
        .join(result, result.c.sop_instance_uid == outbox.c.sop_instance_uid)
        .where(*refused)
        .group_by(outbox.c.destination, result.c.role)
        .subquery()
    )
    rows = connection.execute(
        select(latest.c.destination, latest.c.role, latest.c.count, outbox.c.answer)
        .join(outbox, outbox.c.id == latest.c.id)
        .order_by(latest.c.destination, latest.c.role)
    )
    return [dict(row) for row in rows.mappings()]


def not_taken(connection: Connection, parcel: Parcel, reason: str) -> None:
    """Withdraw one parcel that its destination cannot take, and does not need."""
    connection.execute(
        update(outbox)
        .where(outbox.c.id == parcel.id, outbox.c.state == "waiting")
        .values(state="withdrawn", answer=reason)
    )
    events.record(connection, "result_withdrawn", job=parcel.job_id, to=parcel.destination, answer=reason)


def due(connection: Connection, now: datetime, state: str = "waiting", destination: str | None = None) -> list[Parcel]:
    """Return the parcels in this state that are due, oldest first; of one destination, or of all."""
    here = () if destination is None else (outbox.c.destination == destination,)
    return _parcels(connection, outbox.c.state == state, outbox.c.due_at <= now, *here)


def of_transaction(connection: Connection, transaction_uid: str) -> list[Parcel]:
    """Return the delivered parcels of one storage commitment request."""
    return _parcels(connection, outbox.c.transaction_uid == transaction_uid, outbox.c.state == "delivered")


def vouched_for(connection: Connection, transaction_uid: str) -> list[Parcel]:
    """Return the committed parcels of one storage commitment request."""
    return _parcels(connection, outbox.c.transaction_uid == transaction_uid, outbox.c.state == "committed")


def delivered(connection: Connection, parcel: Parcel, answer: str, next_ask: datetime, now: datetime) -> None:
    """Record that the destination took the object; `next_ask` is when to ask for commitment."""
    connection.execute(
        update(outbox)
        .where(outbox.c.id == parcel.id, outbox.c.state == "waiting")
        .values(state="delivered", answer=answer, delivered_at=now, due_at=next_ask, tries=0)
    )
    events.record(connection, "result_delivered", job=parcel.job_id, to=parcel.destination)


def put_off(connection: Connection, parcel: Parcel, answer: str, due_at: datetime) -> None:
    """Record a try in vain; the parcel stays in its state and is due again later."""
    connection.execute(
        update(outbox)
        .where(outbox.c.id == parcel.id, outbox.c.state == parcel.state)
        .values(tries=outbox.c.tries + 1, answer=answer, due_at=due_at)
    )


def rejected(connection: Connection, parcel: Parcel, answer: str, now: datetime) -> None:
    """Record a refusal that will not change by itself; the job fails with it."""
    connection.execute(update(outbox).where(outbox.c.id == parcel.id).values(state="rejected", answer=answer))
    events.record(connection, "result_rejected", job=parcel.job_id, to=parcel.destination, answer=answer)
    reason = f"{parcel.destination}: {answer}"
    failed = connection.execute(
        update(job)
        .where(job.c.id == parcel.job_id, job.c.state == "delivering")
        .values(state="failed", reason=reason, finished_at=now)
        .returning(job.c.study_instance_uid)
    ).one_or_none()
    if failed is not None:  # with the first of its results; the others are refused beside it
        events.record(connection, "job_failed", study=failed.study_instance_uid, job=parcel.job_id, reason=reason)


def commitment_asked(
    connection: Connection, parcels: Sequence[Parcel], transaction_uid: str, next_ask: datetime
) -> None:
    """Record that commitment of these parcels was asked for, before the request leaves."""
    connection.execute(
        update(outbox)
        .where(outbox.c.id.in_([parcel.id for parcel in parcels]), outbox.c.state == "delivered")
        .values(transaction_uid=transaction_uid, due_at=next_ask, tries=outbox.c.tries + 1)
    )


def committed(connection: Connection, parcel: Parcel, now: datetime) -> None:
    """Record that the destination vouches for the object."""
    connection.execute(
        update(outbox)
        .where(outbox.c.id == parcel.id, outbox.c.state == "delivered")
        .values(state="committed", committed_at=now, answer="committed")
    )
    events.record(connection, "result_committed", job=parcel.job_id, to=parcel.destination)


def send_again(connection: Connection, parcel: Parcel, answer: str, due_at: datetime) -> None:
    """Put a delivered parcel back to waiting: the destination says it does not hold it.

    The loss is counted: the next request for commitment is another transaction, so that no answer to an earlier one
    is taken for an answer to it.
    """
    connection.execute(
        update(outbox)
        .where(outbox.c.id == parcel.id, outbox.c.state == "delivered")
        .values(
            state="waiting",
            answer=answer,
            due_at=due_at,
            tries=outbox.c.tries + 1,
            losses=outbox.c.losses + 1,
            transaction_uid=None,
        )
    )


def ask_anew(connection: Connection, parcel: Parcel, answer: str, due_at: datetime) -> None:
    """Ask for commitment of a delivered parcel in another transaction, later."""
    connection.execute(
        update(outbox)
        .where(outbox.c.id == parcel.id, outbox.c.state == "delivered")
        .values(answer=answer, due_at=due_at, losses=outbox.c.losses + 1, transaction_uid=None)
    )


def any_delivering(connection: Connection) -> bool:
    """Return whether a job waits for its deliveries."""
    return connection.execute(select(job.c.id).where(job.c.state == "delivering").limit(1)).first() is not None


def complete_jobs(connection: Connection, commits: frozenset[str], now: datetime) -> list[str]:
    """Complete the delivering jobs whose parcels are all at their end. `commits`: destinations that commit.

    What was withdrawn is waited for no more.
    """
    open_jobs = connection.execute(select(job.c.id, job.c.study_instance_uid).where(job.c.state == "delivering")).all()
    done = []
    for row in open_jobs:
        kept = (outbox.c.job_id == row.id, outbox.c.state != "withdrawn")
        states = connection.execute(select(outbox.c.state, outbox.c.destination).where(*kept)).all()
        if all(s.state == ("committed" if s.destination in commits else "delivered") for s in states):
            connection.execute(update(job).where(job.c.id == row.id).values(state="completed", finished_at=now))
            events.record(connection, "job_completed", study=row.study_instance_uid, job=row.id)
            done.append(row.id)
    return done


def add_report(
    connection: Connection,
    transaction_uid: str,
    ae_title: str,
    stored: Sequence[tuple[str, str]],
    failed: Sequence[tuple[str, str, int]],
    now: datetime,
) -> None:
    """Keep a storage commitment report (PS3.4 Annex J.3.3) until delivery reads it; once, however often it is told."""
    known = select(commitment_report.c.id).where(
        commitment_report.c.transaction_uid == transaction_uid,
        commitment_report.c.ae_title == ae_title,
        commitment_report.c.received_at == now,
    )
    if connection.execute(known).first():
        return
    connection.execute(
        insert(commitment_report).values(
            transaction_uid=transaction_uid,
            ae_title=ae_title,
            received_at=now,
            stored=[list(item) for item in stored],
            failed=[list(item) for item in failed],
        )
    )


def unread_reports(connection: Connection) -> list[Any]:
    """Return the storage commitment reports that delivery has not read."""
    query = select(commitment_report).where(commitment_report.c.read == 0).order_by(commitment_report.c.id)
    return list(connection.execute(query).all())


def mark_read(connection: Connection, report_id: int) -> None:
    """Record that a report has been judged."""
    connection.execute(update(commitment_report).where(commitment_report.c.id == report_id).values(read=1))


def drop_report(connection: Connection, report_id: int) -> None:
    """Forget a report of a request that was never ours, or is answered: such may come without end."""
    connection.execute(delete(commitment_report).where(commitment_report.c.id == report_id))


def counts(connection: Connection) -> dict[str, int]:
    """Return how many parcels are in each state."""
    rows = connection.execute(select(outbox.c.state, func.count()).group_by(outbox.c.state)).all()
    found = {state: int(number) for state, number in rows}
    return {state: found.get(state, 0) for state in ("waiting", "delivered", "committed", "rejected", "withdrawn")}

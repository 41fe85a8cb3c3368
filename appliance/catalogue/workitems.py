"""Queries of workitems: what worklists ask for, what of it we hold, and how it ends.

| state     | there (PS3.4 Table CC.1.1-1) | means                                                            |
|-----------|------------------------------|------------------------------------------------------------------|
| scheduled | SCHEDULED                    | seen and left there, for the reason                              |
| claiming  | SCHEDULED or IN PROGRESS     | the claim is on its way; its Transaction UID is written down     |
| claimed   | IN PROGRESS                  | the route runs for it                                            |
| closing   | IN PROGRESS or the ending    | the ending is decided and on its way                             |
| closed    | COMPLETED or CANCELED        | by us                                                            |
| lost      | anything                     | somebody else holds, ended or removed it, or we were refused     |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from appliance.catalogue import events
from appliance.catalogue.tables import job, outbox, outcome, result, study, workitem

STATES = ("scheduled", "claiming", "claimed", "closing", "closed", "lost")
HELD = ("claiming", "claimed", "closing")
ASKED = ("claimed", "closing", "closed")


@dataclass(frozen=True)
class Held:
    """One workitem as we know it."""

    sop_instance_uid: str
    worklist: str
    transaction_uid: str
    study_instance_uid: str
    route: str
    urgent: int
    state: str
    ending: str
    reason: str
    job_id: str
    progress: int
    claimed_at: datetime | None
    tries: int
    answer: str  # the last one, where a try was in vain


@dataclass(frozen=True)
class Answered:
    """What became of a route's question about a study, as far as it is known."""

    outcome: str  # of the decision, or the state of its job
    reason: str
    job_id: str  # "": no job answers
    routed: bool  # the routes have decided about all that is there
    started_at: datetime | None


@dataclass(frozen=True)
class Output:
    """A result that lies at a destination."""

    destination: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


COLUMNS = tuple(workitem.c[name] for name in Held.__dataclass_fields__)


def of_worklist(connection: Connection, worklist: str, states: Iterable[str], now: datetime) -> list[Held]:
    """Return the workitems of a worklist that are due in these states, oldest first."""
    here = (workitem.c.worklist == worklist, workitem.c.state.in_(states), workitem.c.due_at <= now)
    rows = connection.execute(select(*COLUMNS).where(*here).order_by(workitem.c.found_at, workitem.c.sop_instance_uid))
    return [Held(**row._mapping) for row in rows]


def unknown(connection: Connection, uids: Iterable[str]) -> list[str]:
    """Return those of these workitems that nobody has written down."""
    wanted = list(dict.fromkeys(uids))
    known = set(
        connection.execute(select(workitem.c.sop_instance_uid).where(workitem.c.sop_instance_uid.in_(wanted))).scalars()
    )
    return [uid for uid in wanted if uid not in known]


def seen(connection: Connection, values: dict[str, Any], now: datetime) -> None:
    """Write down a workitem that is SCHEDULED there. `values`: the columns that its worklist gives."""
    connection.execute(insert(workitem).values(**values, state="scheduled", found_at=now, due_at=now))


def forget_unseen(connection: Connection, worklist: str, uids: Iterable[str]) -> None:
    """Forget the workitems that were left SCHEDULED and are so no more: others perform or cancelled them."""
    connection.execute(
        delete(workitem).where(
            workitem.c.worklist == worklist,
            workitem.c.state == "scheduled",
            workitem.c.sop_instance_uid.not_in(list(uids)),
        )
    )


def left(connection: Connection, uid: str, reason: str) -> None:
    """Record why a workitem is left SCHEDULED."""
    connection.execute(update(workitem).where(workitem.c.sop_instance_uid == uid).values(reason=reason))


def claiming(connection: Connection, uid: str) -> None:
    """Record, before the claim leaves, that it does."""
    mine = (workitem.c.sop_instance_uid == uid, workitem.c.state == "scheduled")
    connection.execute(update(workitem).where(*mine).values(state="claiming", reason=""))


def claimed(connection: Connection, held: Held, now: datetime) -> None:
    """Record that we hold a workitem: the study is routed anew, and its waiting job goes first where it is urgent."""
    _move(connection, held, "claimed", claimed_at=now, due_at=now, tries=0, answer="")
    connection.execute(update(study).where(study.c.study_instance_uid == held.study_instance_uid).values(routed=0))
    if held.urgent:
        mine = select(outcome.c.job_id).where(
            outcome.c.study_instance_uid == held.study_instance_uid, outcome.c.route == held.route
        )
        connection.execute(update(job).where(job.c.id.in_(mine), job.c.state == "queued").values(priority=0))
    _tell(connection, held, "workitem_claimed")


def reported(connection: Connection, held: Held, progress: int) -> None:
    """Record the progress that was reported, in percent."""
    _move(connection, held, held.state, progress=progress, tries=0, answer="")


def closing(connection: Connection, held: Held, ending: str, reason: str, job_id: str, now: datetime) -> None:
    """Record how a workitem is to end, before that is said."""
    _move(connection, held, "closing", ending=ending, reason=reason, job_id=job_id, due_at=now, tries=0, answer="")


def closed(connection: Connection, held: Held) -> None:
    """Record that a workitem ended as we said."""
    _move(connection, held, "closed", answer="")
    _tell(connection, held, "workitem_closed", ending=held.ending)


def lost(connection: Connection, held: Held, answer: str) -> None:
    """Record that a workitem is not ours, or not any more."""
    _move(connection, held, "lost", answer=answer)
    _tell(connection, held, "workitem_lost", answer=answer)


def put_off(connection: Connection, held: Held, answer: str, due_at: datetime) -> None:
    """Record a try in vain."""
    _move(connection, held, held.state, answer=answer, due_at=due_at, tries=held.tries + 1)


def _move(connection: Connection, held: Held, state: str, **values: Any) -> None:
    mine = (workitem.c.sop_instance_uid == held.sop_instance_uid, workitem.c.state == held.state)
    connection.execute(update(workitem).where(*mine).values(state=state, **values))


def _tell(connection: Connection, held: Held, kind: str, **detail: Any) -> None:
    named = {"worklist": held.worklist, "workitem": held.sop_instance_uid}
    events.record(connection, kind, study=held.study_instance_uid, job=held.job_id, **named, **detail)


def asked(connection: Connection, study_uid: str) -> dict[str, bool]:
    """Return the routes that workitems we hold or held ask for of a study, and whether urgently."""
    rows = connection.execute(
        select(workitem.c.route, func.max(workitem.c.urgent))
        .where(workitem.c.study_instance_uid == study_uid, workitem.c.state.in_(ASKED))
        .group_by(workitem.c.route)
    )
    return {route: bool(urgent) for route, urgent in rows}


def study_state(connection: Connection, study_uid: str) -> str:
    """Return whether a study is `receiving` or `complete`, "" where it is not here."""
    query = select(study.c.state).where(study.c.study_instance_uid == study_uid)
    return str(connection.execute(query).scalar() or "")


def answer_of(connection: Connection, held: Held) -> Answered | None:
    """Return what became of a claimed workitem's study; None until its route has decided since the claim."""
    row = connection.execute(
        select(outcome, study.c.routed, job.c.state, job.c.reason.label("ended"), job.c.started_at)
        .join(study, study.c.study_instance_uid == outcome.c.study_instance_uid)
        .outerjoin(job, job.c.id == outcome.c.job_id)
        .where(outcome.c.study_instance_uid == held.study_instance_uid, outcome.c.route == held.route)
    ).one_or_none()
    if row is None or held.claimed_at is None or row.decided_at < held.claimed_at:
        return None
    if row.job_id is None:
        return Answered(row.outcome, row.reason, "", bool(row.routed), None)
    return Answered(row.state, row.ended, row.job_id, bool(row.routed), row.started_at)


def outputs(connection: Connection, job_id: str) -> list[Output]:
    """Return the results of a job that its destinations have."""
    rows = connection.execute(
        select(
            outbox.c.destination,
            result.c.sop_class_uid,
            result.c.sop_instance_uid,
            result.c.series_instance_uid,
        )
        .join(result, result.c.sop_instance_uid == outbox.c.sop_instance_uid)
        .where(outbox.c.job_id == job_id, outbox.c.state.in_(("delivered", "committed")))
        .order_by(outbox.c.destination, result.c.series_instance_uid, result.c.sop_instance_uid)
    )
    return [Output(*row) for row in rows]


def of_study(connection: Connection, study_uid: str) -> list[dict[str, Any]]:
    """Return the workitems that ask for a study: worklist, route, state, why, how they ended and the last answer."""
    names = ("sop_instance_uid", "worklist", "route", "state", "ending", "reason", "tries", "answer")
    rows = connection.execute(
        select(*(workitem.c[name] for name in names))
        .where(workitem.c.study_instance_uid == study_uid)
        .order_by(workitem.c.found_at, workitem.c.sop_instance_uid)
    )
    return [dict(row) for row in rows.mappings()]


def counts(connection: Connection) -> dict[str, int]:
    """Return how many workitems are in each state."""
    rows = connection.execute(select(workitem.c.state, func.count()).group_by(workitem.c.state)).all()
    found = {state: int(number) for state, number in rows}
    return {state: found.get(state, 0) for state in STATES}

"""Queries that people ask: status, studies, jobs, and why a study has the outcome it has. They change nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, or_, select

from appliance.catalogue import corrections, events, notices, outbox, workitems
from appliance.catalogue.forgetting import Forgotten, forgotten, forgotten_among
from appliance.catalogue.passports import passport
from appliance.catalogue.tables import instance, job, outcome, result, study
from appliance.catalogue.tables import outbox as outbox_table
from appliance.catch_up import Held
from appliance.errors import Missing

# what `curie explain` calls a job's state
OUTCOMES = {"queued": "pending", "running": "pending", "delivering": "pending"}
ORDER = (
    "waiting",
    "rejected",
    "delivered",
    "committed",
)  # the least advanced destination speaks for a result
JOB_STATES = (
    "queued",
    "running",
    "delivering",
    "completed",
    "unsuitable",
    "failed",
    "cancelled",
    "superseded",
)


def status(connection: Connection) -> dict[str, Any]:
    """Return the counts of studies, jobs, outbox, notices and workitems, and what destinations do not take."""
    return {
        "studies": _count_by(connection, study.c.state, ("receiving", "complete")),
        "jobs": _count_by(connection, job.c.state, JOB_STATES),
        "outbox": outbox.counts(connection),
        "not_taken": outbox.not_taken_by(connection),
        "notices": notices.counts(connection),
        "workitems": workitems.counts(connection),
        "instances": _count_by(
            connection,
            instance.c.state,
            ("current", "replaced", "conflict", "result", "document", "unreadable", "forgotten"),
        ),
    }


def clinical_jobs(connection: Connection) -> int:
    """Return how many jobs wait or run for whose results somebody may wait: all but those of shadows."""
    waiting = (job.c.state.in_(("queued", "running")), job.c.shadow == 0)
    return connection.execute(select(func.count()).select_from(job).where(*waiting)).scalar_one()


def _count_by(connection: Connection, column: Any, states: Iterable[str]) -> dict[str, int]:
    rows = connection.execute(select(column, func.count()).group_by(column)).all()
    found = {state: int(number) for state, number in rows}
    return {state: found.get(state, 0) for state in states}


def iso(at: datetime | None) -> str | None:
    """Return a moment as ISO 8601 with zone, or None."""
    return at.isoformat(timespec="milliseconds") if at else None


def studies(connection: Connection, limit: int = 100) -> list[dict[str, Any]]:
    """Return the latest studies, newest first."""
    images = (
        select(func.count())
        .where(instance.c.study_instance_uid == study.c.study_instance_uid, instance.c.state == "current")
        .scalar_subquery()
    )
    rows = connection.execute(
        select(study, images.label("instances")).order_by(study.c.last_received_at.desc()).limit(limit)
    ).all()
    gone = forgotten_among(connection, [row.study_instance_uid for row in rows])
    return [_study_record(row, gone.get(row.study_instance_uid)) for row in rows]


def _study_record(row: Any, gone: Forgotten | None) -> dict[str, Any]:
    return {
        "study_instance_uid": row.study_instance_uid,
        "accession_number": row.accession_number,
        "state": row.state,
        "instances": row.instances,
        "first_received_at": iso(row.first_received_at),
        "last_received_at": iso(row.last_received_at),
        "complete": _complete(row),
        "forgotten": gone and gone.record(),
    }


def _complete(row: Any) -> dict[str, Any] | None:
    if row.complete_at is None:
        return None
    return {"at": iso(row.complete_at), "reason": row.complete_reason, "evidence": row.complete_evidence}


def held(connection: Connection, uids: list[str]) -> dict[str, Held]:
    """Return what is known of studies: how many images were received, and how many results destinations have.

    Images of a forgotten study count: nobody is to fetch it again by chance.
    """
    found: dict[str, list[int]] = {}
    for at in range(0, len(uids), 500):
        some = uids[at : at + 500]
        images = select(instance.c.study_instance_uid, func.count(func.distinct(instance.c.sop_instance_uid)))
        images = images.where(instance.c.study_instance_uid.in_(some)).group_by(instance.c.study_instance_uid)
        sent = (
            select(job.c.study_instance_uid, func.count(func.distinct(outbox_table.c.sop_instance_uid)))
            .join(outbox_table, outbox_table.c.job_id == job.c.id)
            .where(job.c.study_instance_uid.in_(some), outbox_table.c.state.in_(("delivered", "committed")))
            .group_by(job.c.study_instance_uid)
        )
        for place, query in enumerate((images, sent)):
            for uid, count in connection.execute(query):
                found.setdefault(uid, [0, 0])[place] = int(count)
    return {uid: Held(*counts) for uid, counts in found.items()}


def studies_since(connection: Connection, since: datetime) -> list[str]:
    """Return the studies whose last image came after a moment, oldest first."""
    query = select(study.c.study_instance_uid).where(study.c.last_received_at > since)
    return list(connection.execute(query.order_by(study.c.last_received_at)).scalars())


def find_study(connection: Connection, key: str) -> str:
    """Return the Study Instance UID for a UID or an Accession Number. Raises Missing."""
    rows = connection.execute(
        select(study.c.study_instance_uid).where(
            or_(study.c.study_instance_uid == key, study.c.accession_number == key)
        )
    ).scalars()
    found = list(rows)
    if len(found) == 1:
        return str(found[0])
    if found:
        raise Missing(f"{len(found)} studies have this Accession Number; name one by its Study Instance UID")
    raise Missing("no study has this Study Instance UID or Accession Number; `curie studies list` shows them")


def explain(connection: Connection, study_uid: str) -> dict[str, Any]:
    """Return everything that was decided about a study (CONTRACT: `curie explain STUDY --json`)."""
    row = connection.execute(select(study).where(study.c.study_instance_uid == study_uid)).one()
    images = connection.execute(
        select(instance.c.state, func.count())
        .where(instance.c.study_instance_uid == study_uid)
        .group_by(instance.c.state)
    ).all()
    by_state = {state: int(number) for state, number in images}
    gone = forgotten(connection, study_uid)
    decided = connection.execute(
        select(outcome).where(outcome.c.study_instance_uid == study_uid).order_by(outcome.c.route)
    ).all()
    return {
        "study_instance_uid": study_uid,
        "accession_number": row.accession_number,
        "state": row.state,
        "complete": _complete(row),
        "instances": by_state.get("current", 0),
        "instances_by_state": by_state,
        "forgotten": gone and gone.record(),
        "workitems": workitems.of_study(connection, study_uid),
        "corrections": corrections.of_study(connection, study_uid),
        "outcomes": [_outcome(connection, one, row.last_received_at) for one in decided]
        + _superseded(connection, study_uid, [one.job_id for one in decided], row.last_received_at),
    }


def _outcome(connection: Connection, decided: Any, last_received_at: datetime) -> dict[str, Any]:
    head = {"route": decided.route, "package": decided.package, "version": decided.package_version}
    if decided.job_id is None:
        return {
            **head,
            "outcome": decided.outcome,
            "reason": decided.reason,
            "results": [],
            "findings": [],
            "notices": [],
            "timings": {},
        }
    return {**head, **_job_outcome(connection, decided.job_id, last_received_at)}


def _superseded(
    connection: Connection, study_uid: str, shown: list[str | None], last_received_at: datetime
) -> list[dict[str, Any]]:
    rows = connection.execute(
        select(job.c.id, job.c.package)
        .where(job.c.study_instance_uid == study_uid, job.c.state == "superseded", job.c.shadow == 0)
        .order_by(job.c.created_at)
    ).all()
    return [
        {
            "route": "",
            "package": row.package,
            **_job_outcome(connection, row.id, last_received_at),
        }
        for row in rows
        if row.id not in shown
    ]


def _job_outcome(connection: Connection, job_id: str, last_received_at: datetime) -> dict[str, Any]:
    row = connection.execute(select(job).where(job.c.id == job_id)).one()
    state = OUTCOMES.get(row.state, row.state)
    return {
        "version": row.package_version,  # of the version that answered, be another one active meanwhile
        "outcome": state,
        "reason": "" if state in ("pending", "completed") else row.reason,
        "job": row.id,
        "state": row.state,
        "engine": row.engine,
        "skipped": [{"rung": rung, "reason": reason} for rung, reason in row.skipped],
        "series_instance_uid": row.series_instance_uid,
        "inputs": dict(row.inputs),
        "results": results(connection, job_id),
        "findings": row.findings,
        "notices": notices.of_job(connection, job_id),
        "timings": timings(connection, row, last_received_at),
        "passport": passport(connection, job_id),
    }


def results(connection: Connection, job_id: str) -> list[dict[str, Any]]:
    """Return the results of a job with the state of the least advanced destination."""
    rows = connection.execute(select(result).where(result.c.job_id == job_id).order_by(result.c.role)).all()
    found = []
    for row in rows:
        sent = connection.execute(
            select(*(outbox_table.c[name] for name in ("state", "destination", "answer", "tries")))
            .where(outbox_table.c.sop_instance_uid == row.sop_instance_uid)
            .order_by(outbox_table.c.destination)
        ).all()
        states = [one.state for one in sent]
        found.append(
            {
                "sop_instance_uid": row.sop_instance_uid,
                "sop_class_uid": row.sop_class_uid,
                "series_instance_uid": row.series_instance_uid,
                "role": row.role,
                "sha256": row.sha256,
                "bytes": row.bytes,
                "path": row.path,
                "state": next((state for state in ORDER if state in states), "withdrawn" if states else "waiting"),
                "destinations": [dict(one._mapping) for one in sent],
            }
        )
    return found


def timings_of(connection: Connection, job_id: str) -> dict[str, float]:
    """Return the seconds of each step of a job."""
    query = select(job, study.c.last_received_at).join(study, study.c.study_instance_uid == job.c.study_instance_uid)
    row = connection.execute(query.where(job.c.id == job_id)).one()
    return timings(connection, row, row.last_received_at)


def timings(connection: Connection, row: Any, last_received_at: datetime) -> dict[str, float]:
    """Return the seconds of each step, as far as the job has come."""
    sent, vouched = connection.execute(
        select(func.max(outbox_table.c.delivered_at), func.max(outbox_table.c.committed_at)).where(
            outbox_table.c.job_id == row.id
        )
    ).one()
    steps: dict[str, float] = {}
    steps["complete_s"] = _seconds(last_received_at, row.created_at)
    if row.started_at:
        steps["wait_s"] = _seconds(row.created_at, row.started_at)
    steps |= row.timings
    written = next((e["at"] for e in events.of_job(connection, row.id) if e["kind"] == "results_written"), None)
    if sent and written:
        steps["delivery_s"] = _seconds(written, sent)
        steps["total_s"] = _seconds(last_received_at, sent)
    if sent and vouched:
        steps["commitment_s"] = _seconds(sent, vouched)
    return steps


def _seconds(start: datetime, end: datetime) -> float:
    return round(max(0.0, (end - start).total_seconds()), 3)


def jobs(connection: Connection, state: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """Return the latest jobs, newest first."""
    query = select(job).order_by(job.c.created_at.desc()).limit(limit)
    if state:
        query = query.where(job.c.state == state)
    return [_job_record(row) for row in connection.execute(query).all()]


def _job_record(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "study_instance_uid": row.study_instance_uid,
        "package": row.package,
        "version": row.package_version,
        "state": row.state,
        "reason": row.reason,
        "priority": "urgent" if row.priority == 0 else "routine",
        "shadow": bool(row.shadow),
        "attempts": row.attempts,
        "errors": row.errors,
        "worker": row.worker,
        "engine": row.engine,
        "created_at": iso(row.created_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
    }


def created_at(connection: Connection, job_id: str) -> datetime:
    """Return the exact moment at which a job was created: the time that its results bear."""
    found: datetime = connection.execute(select(job.c.created_at).where(job.c.id == job_id)).scalar_one()
    return found


def job_record(connection: Connection, job_id: str) -> dict[str, Any]:
    """Return one job with its results and events. Raises Missing."""
    row = connection.execute(select(job).where(job.c.id == job_id)).one_or_none()
    if row is None:
        raise Missing(f"there is no job {job_id}; `curie jobs list` shows them")
    happened = [
        {"at": iso(one["at"]), "event": one["kind"], **one["detail"]} for one in events.of_job(connection, job_id)
    ]
    return {
        **_job_record(row),
        "series_instance_uid": row.series_instance_uid,
        "timings": row.timings,
        "findings": row.findings,
        "results": results(connection, job_id),
        "notices": notices.of_job(connection, job_id),
        "events": happened,
    }

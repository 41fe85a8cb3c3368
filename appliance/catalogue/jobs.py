"""Queries of jobs: claim, heartbeat, fenced commit, reconcile. Every write names the fencing token it holds.

A claim gives the next token; whoever holds an older one finds no row to change and throws its work away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, insert, or_, select, update

from appliance.catalogue import events, unanswered
from appliance.catalogue.outbox import address, withdraw
from appliance.catalogue.tables import instance, job, job_destination, job_input, outcome, result
from appliance.job import ObjectReference, Prior, may_become

MAX_ATTEMPTS = 3  # deaths of a worker under the same job
MAX_ERRORS = 3  # errors of an engine that may pass
LEASE_S = 30.0


class Fenced(Exception):
    """Another worker holds the job now; the work done under the old token is thrown away."""


@dataclass(frozen=True)
class Claim:
    """One claimed job: what to run, and the token to run it under."""

    id: str
    token: int
    study_instance_uid: str
    series_instance_uid: str
    package: str
    package_version: str
    package_digest: str
    created_at: datetime
    attempts: int
    supersedes: str | None
    inputs: list[list[str]]  # [[input, Series Instance UID], …], in the order of the package's inputs
    shadow: int
    tells: str = ""  # not "": no model runs, the result says this


@dataclass(frozen=True)
class NewResult:
    """One object made by a job, its file already durable."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    role: str
    path: str  # relative to the results folder
    sha256: str
    bytes: int
    variant: str = ""


def _claimable(now: datetime) -> Any:
    expired = and_(job.c.state == "running", job.c.lease_until < now)
    return and_(or_(and_(job.c.state == "queued", job.c.due_at <= now), expired), job.c.attempts < MAX_ATTEMPTS)


def claim(connection: Connection, worker: str, now: datetime) -> Claim | None:
    """Claim the most urgent due job: queued, or running under an expired lease. None when there is none."""
    first = (
        select(job.c.id).where(_claimable(now)).order_by(job.c.priority, job.c.created_at).limit(1)
    ).scalar_subquery()
    row = connection.execute(
        update(job)
        .where(job.c.id == first, _claimable(now))
        .values(
            state="running",
            attempts=job.c.attempts + 1,
            token=job.c.token + 1,
            lease_until=now + timedelta(seconds=LEASE_S),
            worker=worker,
            started_at=now,
            reason="",
        )
        .returning(
            job.c.id,
            job.c.token,
            job.c.study_instance_uid,
            job.c.series_instance_uid,
            job.c.package,
            job.c.package_version,
            job.c.package_digest,
            job.c.created_at,
            job.c.attempts,
            job.c.supersedes,
            job.c.inputs,
            job.c.shadow,
            job.c.tells,
        )
    ).one_or_none()
    if row is None:
        return None
    got = Claim(**row._mapping)
    events.record(connection, "job_started", study=got.study_instance_uid, job=got.id, token=got.token, worker=worker)
    return got


def heartbeat(connection: Connection, held: Claim, now: datetime) -> bool:
    """Renew the lease; False when the job is no longer ours (fenced, cancelled or superseded)."""
    done = connection.execute(update(job).where(*_held(held)).values(lease_until=now + timedelta(seconds=LEASE_S)))
    return bool(done.rowcount)


def _held(held: Claim) -> tuple[Any, ...]:
    return (job.c.id == held.id, job.c.token == held.token, job.c.state == "running")


def input_paths(connection: Connection, job_id: str) -> dict[str, list[str]]:
    """Return the spool paths of the job's input set by Series Instance UID, relative to the spool."""
    rows = connection.execute(
        select(instance.c.series_instance_uid, instance.c.path)
        .join(job_input, job_input.c.instance_id == instance.c.id)
        .where(job_input.c.job_id == job_id)
        .order_by(instance.c.sop_instance_uid)
    )
    found: dict[str, list[str]] = {}
    for series, path in rows:
        found.setdefault(series, []).append(path)
    return found


def inputs_by_series(connection: Connection, job_id: str) -> dict[str, list[tuple[str, str]]]:
    """Return Series Instance UID → (SOP Class UID, SOP Instance UID) of the job's input set."""
    rows = connection.execute(
        select(instance.c.series_instance_uid, instance.c.sop_class_uid, instance.c.sop_instance_uid)
        .join(job_input, job_input.c.instance_id == instance.c.id)
        .where(job_input.c.job_id == job_id)
        .order_by(instance.c.series_instance_uid, instance.c.sop_instance_uid)
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for series, sop_class, uid in rows:
        found.setdefault(series, []).append((sop_class, uid))
    return found


def of_result(connection: Connection, sop_instance_uid: str) -> str | None:
    """Return the job that made a result, None for one that is not ours."""
    query = select(result.c.job_id).where(result.c.sop_instance_uid == sop_instance_uid)
    return connection.execute(query).scalar()


def stored_results(connection: Connection, job_id: str) -> dict[str, tuple[str, str, str]]:
    """Return SOP Instance UID → (role, path, SHA-256) of a job's results."""
    rows = connection.execute(
        select(result.c.sop_instance_uid, result.c.role, result.c.path, result.c.sha256)
        .where(result.c.job_id == job_id)
        .order_by(result.c.role, result.c.path)
    )
    return {uid: (role, path, digest) for uid, role, path, digest in rows}


def held_before(connection: Connection, job_id: str) -> tuple[Claim, str, list[dict[str, Any]]]:
    """Return a job as it was claimed, without claiming it: for running it once more; its engine and findings."""
    row = connection.execute(select(job).where(job.c.id == job_id)).one()
    held = Claim(**{one.name: getattr(row, one.name) for one in fields(Claim)})
    return held, row.engine, row.findings


def results_of(connection: Connection, job_id: str) -> list[ObjectReference]:
    """Return references to a job's results."""
    return [one for _, one in _references(connection, result.c.job_id == job_id)]


def replaced_by(connection: Connection, held: Claim) -> list[ObjectReference]:
    """Return the results that this job's replace: of the job it supersedes, and what told that there was none."""
    told = select(job.c.id).where(
        job.c.study_instance_uid == held.study_instance_uid,
        job.c.package == held.package,
        job.c.tells != "",
        job.c.id != held.id,
    )
    wanted = or_(result.c.job_id == (held.supersedes or ""), result.c.job_id.in_(told))
    return [one for _, one in _references(connection, wanted)]


def destinations_of(connection: Connection, job_id: str) -> set[str]:
    """Return the names of the destinations of a job."""
    query = select(job_destination.c.destination).where(job_destination.c.job_id == job_id)
    return set(connection.execute(query).scalars())


def _references(connection: Connection, *where: Any) -> list[tuple[str, ObjectReference]]:
    """Return (job id, reference) of results."""
    rows = connection.execute(
        select(
            result.c.job_id,
            result.c.sop_class_uid,
            result.c.sop_instance_uid,
            result.c.series_instance_uid,
            job.c.study_instance_uid,
        )
        .join(job, job.c.id == result.c.job_id)
        .where(*where)
        .order_by(result.c.sop_instance_uid)
    )
    return [(row[0], ObjectReference(*row[1:])) for row in rows]


def patient_of(connection: Connection, job_id: str) -> str:
    """Return the digest that tells the patient of a job's images from others."""
    query = select(instance.c.patient_key).join(job_input, job_input.c.instance_id == instance.c.id)
    return str(connection.execute(query.where(job_input.c.job_id == job_id).limit(1)).scalar() or "")


def priors_of(connection: Connection, held: Claim, patient_key: str) -> list[Prior]:
    """Return what results of this package say of this patient's other studies, the latest study first."""
    rows = connection.execute(
        select(job.c.id, job.c.study_date, job.c.findings)
        .where(job.c.patient_key == patient_key, job.c.package == held.package, job.c.shadow == 0)
        .where(job.c.study_instance_uid != held.study_instance_uid, job.c.state.in_(("delivering", "completed")))
        .where(job.c.study_date != "", job.c.created_at < held.created_at)
        .order_by(job.c.study_date.desc(), job.c.id)
    ).all()
    reports = dict(_references(connection, result.c.job_id.in_([row.id for row in rows]), result.c.role == "SR"))
    return [
        Prior(finding["tracking_uid"], row.study_date, _values(finding), reports[row.id])
        for row in rows
        if row.id in reports
        for finding in row.findings
    ]


def _values(finding: dict[str, Any]) -> tuple[tuple[str, str, float], ...]:
    return tuple((one["code"], one["unit"], one["value"]) for one in finding["measurements"] if "code" in one)


def commit_results(
    connection: Connection,
    held: Claim,
    results: Sequence[NewResult],
    accepted: dict[str, tuple[str, ...]],
    record: dict[str, Any],
    now: datetime,
) -> None:
    """Write job, results and outbox in one transaction. Raises Fenced when the token is not the newest.

    `accepted`: destination name → roles it takes. `record`: engine, timings and findings of the job row.
    """
    done = connection.execute(
        update(job).where(*_held(held)).values(state="completed", finished_at=now, lease_until=None, **record)
    )
    if done.rowcount != 1:
        raise Fenced(held.id)
    connection.execute(insert(result), [{**asdict(one), "job_id": held.id, "created_at": now} for one in results])
    if address(connection, held.id, accepted, now):
        connection.execute(update(job).where(job.c.id == held.id).values(state="delivering", finished_at=None))
    if not held.tells:
        unanswered.answered(connection, held.study_instance_uid, held.package, now)
    if held.supersedes is not None:
        supersede_replaced(connection, held.study_instance_uid, held.supersedes, now)
    events.record(connection, "results_written", study=held.study_instance_uid, job=held.id, results=len(results))


def supersede_replaced(connection: Connection, study_uid: str, job_id: str, now: datetime) -> None:
    """End a job whose results newer ones replace, unless another route still asks for it."""
    wanted = select(outcome.c.job_id).where(outcome.c.job_id == job_id)
    if connection.execute(wanted).first():
        return
    done = connection.execute(
        update(job)
        .where(job.c.id == job_id, job.c.state.in_(may_become("superseded")))
        .values(state="superseded", reason="a newer result replaces this one", finished_at=now)
    )
    if done.rowcount:
        withdraw(connection, job_id, "a newer result replaces it")
        events.record(connection, "job_superseded", study=study_uid, job=job_id)


def finish(connection: Connection, held: Claim, state: str, reason: str, now: datetime) -> None:
    """End a job as unsuitable or failed. Raises Fenced."""
    done = connection.execute(
        update(job).where(*_held(held)).values(state=state, reason=reason, finished_at=now, lease_until=None)
    )
    if done.rowcount != 1:
        raise Fenced(held.id)
    events.record(connection, f"job_{state}", study=held.study_instance_uid, job=held.id, reason=reason)


def put_back(connection: Connection, held: Claim, cause: str, due_at: datetime, *, counts: bool) -> str:
    """Queue a job again after an error that may pass; fails it after MAX_ERRORS. Returns the new state.

    `counts` is False when the worker stops by order: that is nobody's fault.
    """
    row = connection.execute(
        update(job)
        .where(*_held(held))
        .values(
            state="queued",
            due_at=due_at,
            lease_until=None,
            reason=cause,
            attempts=job.c.attempts - 1,
            errors=job.c.errors + int(counts),
        )
        .returning(job.c.errors)
    ).one_or_none()
    if row is None:
        return "fenced"
    events.record(connection, "job_put_back", study=held.study_instance_uid, job=held.id, cause=cause)
    if row.errors < MAX_ERRORS:
        return "queued"
    reason = f"failed {row.errors} times, last: {cause}"
    connection.execute(update(job).where(job.c.id == held.id).values(state="failed", reason=reason, finished_at=due_at))
    events.record(connection, "job_failed", study=held.study_instance_uid, job=held.id, reason=reason)
    return "failed"


def _exhausted(now: datetime) -> tuple[Any, ...]:
    return (job.c.state == "running", job.c.lease_until < now, job.c.attempts >= MAX_ATTEMPTS)


def any_exhausted(connection: Connection, now: datetime) -> bool:
    """Return whether a job is to be failed by `fail_exhausted`."""
    return connection.execute(select(job.c.id).where(*_exhausted(now)).limit(1)).first() is not None


def fail_exhausted(connection: Connection, now: datetime) -> list[str]:
    """Fail the running jobs whose worker died MAX_ATTEMPTS times. Returns their ids."""
    reason = f"the worker died {MAX_ATTEMPTS} times under this job; see its events, then `curie jobs retry`"
    rows = connection.execute(
        update(job)
        .where(*_exhausted(now))
        .values(state="failed", reason=reason, finished_at=now, lease_until=None)
        .returning(job.c.id, job.c.study_instance_uid)
    ).all()
    for row in rows:
        events.record(connection, "job_failed", study=row.study_instance_uid, job=row.id, reason=reason)
    return [row.id for row in rows]


def due_count(connection: Connection, now: datetime) -> int:
    """Return how many jobs a worker could claim now."""
    return len(connection.execute(select(job.c.id).where(_claimable(now)).limit(100)).all())

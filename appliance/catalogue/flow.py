"""Queries of the straight line as a whole: what stands at which step, since when, and how it went by the hour.

They are asked again and again while a page is open, so each reads an index or a few hundred rows. They change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, case, func, select, true

from appliance.catalogue.forgetting import forgotten_among
from appliance.catalogue.tables import (
    association,
    event,
    instance,
    job,
    outbox,
    outcome,
    result,
    series,
    study,
    study_association,
)

LATEST = 200  # jobs whose times are looked at
HOUR = timedelta(hours=1)
COMPUTED = (
    "volume_s",
    "inference_s",
    "findings_s",
    "results_s",
    "validated_s",
)  # what a worker does, one after another


def newest_event(connection: Connection) -> int:
    """Return the number of the newest event: while it stays, nothing happened."""
    return int(connection.execute(select(func.max(event.c.seq))).scalar() or 0)


def by_hour(connection: Connection, kinds: Sequence[str], now: datetime, hours: int = 24) -> dict[str, list[int]]:
    """Return for each kind of event how many there were in each of the last hours, the oldest first."""
    starts = [now - n * HOUR for n in range(hours - 1, 0, -1)]
    bin_of = case(*((event.c.at < start, n) for n, start in enumerate(starts)), else_=len(starts))
    rows = connection.execute(
        select(event.c.kind, bin_of.label("bin"), func.count())
        .where(event.c.kind.in_(kinds), event.c.at >= now - hours * HOUR)
        .group_by(event.c.kind, "bin")
    ).all()
    found = {kind: [0] * hours for kind in kinds}
    for kind, at, number in rows:
        found[kind][at] = int(number)
    return found


def standing(connection: Connection, *, clinical: bool = False) -> dict[str, tuple[int, datetime | None]]:
    """Return how many stand at each step now, and since when the first of them does; `clinical`: no jobs of shadows."""
    ours = job.c.shadow == 0 if clinical else true()
    counted = {
        "receiving": (study.c.first_received_at, study.c.state == "receiving"),
        "complete": (study.c.complete_at, and_(study.c.state == "complete", study.c.routed == 0)),
        "queued": (job.c.due_at, and_(job.c.state == "queued", ours)),  # one that is tried again waits since then
        "running": (job.c.started_at, and_(job.c.state == "running", ours)),
        "delivering": (result.c.created_at, outbox.c.state == "waiting"),
    }
    found = {}
    for step, (since, where) in counted.items():
        query = select(func.count(), func.min(since)).where(where)
        if step == "delivering":
            query = query.select_from(outbox.join(result, result.c.sop_instance_uid == outbox.c.sop_instance_uid))
        number, first = connection.execute(query).one()
        found[step] = (int(number), first)
    return found


def times(connection: Connection, since: datetime) -> list[dict[str, float]]:
    """Return the seconds of each step of the latest jobs that have results, without those of shadows."""
    sent = (
        select(
            outbox.c.job_id,
            func.max(outbox.c.delivered_at).label("delivered_at"),
            func.max(outbox.c.committed_at).label("committed_at"),
        )
        .group_by(outbox.c.job_id)
        .subquery()
    )
    rows = connection.execute(
        select(job.c.created_at, job.c.started_at, job.c.timings, study.c.last_received_at, study.c.complete_at)
        .add_columns(sent.c.delivered_at, sent.c.committed_at)
        .join(study, study.c.study_instance_uid == job.c.study_instance_uid)
        .join(sent, sent.c.job_id == job.c.id, isouter=True)
        .where(job.c.created_at >= since, job.c.shadow == 0, job.c.state.in_(("delivering", "completed")))
        .order_by(job.c.created_at.desc())
        .limit(LATEST)
    ).all()
    return [_steps(row) for row in rows]


def _steps(row: Any) -> dict[str, float]:
    """Return what each step took, as far as the job has come."""
    computed = sum(row.timings.get(name, 0.0) for name in COMPUTED)
    found = {"computing": computed}
    if row.complete_at:
        found["receiving"] = _seconds(row.last_received_at, row.complete_at)
    if row.started_at:
        found["queued"] = _seconds(row.created_at, row.started_at)
        written = row.started_at + timedelta(seconds=computed)
        if row.delivered_at:
            found["delivering"] = _seconds(written, row.delivered_at)
            found["total"] = _seconds(row.last_received_at, row.delivered_at)
    if row.delivered_at and row.committed_at:
        found["committing"] = _seconds(row.delivered_at, row.committed_at)
    return found


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())


def failed(connection: Connection, since: datetime, limit: int = 10) -> list[dict[str, Any]]:
    """Return the latest jobs that are failed, made since a moment, the newest first."""
    rows = connection.execute(
        select(job.c.id, job.c.study_instance_uid, job.c.package, job.c.package_version, job.c.reason, job.c.created_at)
        .where(job.c.state == "failed", job.c.created_at >= since, job.c.shadow == 0)
        .order_by(job.c.created_at.desc())
        .limit(limit)
    )
    return [dict(row) for row in rows.mappings()]


def studies(
    connection: Connection,
    *,
    before: datetime | None = None,
    outcome_is: str = "",
    accession: str = "",
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Return studies with their outcomes, the one that was received last first.

    `before`: only those whose last image came before; `outcome_is`: only those with a job or decision in this state;
    `accession`: only those with this Accession Number.
    """
    query = select(study).order_by(study.c.last_received_at.desc()).limit(limit)
    if accession:
        query = query.where(study.c.accession_number == accession)
    if before is not None:
        query = query.where(study.c.last_received_at < before)
    if outcome_is:
        with_it = select(outcome.c.study_instance_uid).join(job, job.c.id == outcome.c.job_id, isouter=True)
        query = query.where(study.c.study_instance_uid.in_(with_it.where(_state() == outcome_is)))
    rows = connection.execute(query).all()
    uids = [row.study_instance_uid for row in rows]
    outcomes, images, gone = _outcomes(connection, uids), _images(connection, uids), forgotten_among(connection, uids)
    return [
        {
            **row._mapping,
            "outcomes": outcomes.get(row.study_instance_uid, []),
            "instances": images.get(row.study_instance_uid, 0),
            "state": "forgotten" if row.study_instance_uid in gone else row.state,
        }
        for row in rows
    ]


def _state() -> Any:
    """A job's state where there is a job, else what was decided."""
    return func.coalesce(job.c.state, outcome.c.outcome)


def _outcomes(connection: Connection, uids: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    rows = connection.execute(
        select(outcome.c.study_instance_uid, outcome.c.package, _state().label("state"))
        .join(job, job.c.id == outcome.c.job_id, isouter=True)
        .where(outcome.c.study_instance_uid.in_(uids))
        .order_by(outcome.c.route)
    ).all()
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(row.study_instance_uid, []).append({"package": row.package, "state": row.state})
    return found


def _images(connection: Connection, uids: Sequence[str]) -> dict[str, int]:
    rows = connection.execute(
        select(instance.c.study_instance_uid, func.count())
        .where(instance.c.study_instance_uid.in_(uids), instance.c.state == "current")
        .group_by(instance.c.study_instance_uid)
    )
    return {uid: int(number) for uid, number in rows}


def series_of(connection: Connection, study_uid: str) -> list[dict[str, Any]]:
    """Return the series of a study with the number of their images: Modality, and what its headers say of it."""
    images = (
        select(func.count())
        .where(instance.c.study_instance_uid == study_uid, instance.c.state == "current")
        .where(instance.c.series_instance_uid == series.c.series_instance_uid)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(series.c.series_instance_uid, series.c.modality, series.c.attributes, images.label("images"))
        .where(series.c.study_instance_uid == study_uid)
        .order_by(series.c.series_instance_uid)
    )
    return [dict(row) for row in rows.mappings()]


def image_of(connection: Connection, study_uid: str) -> str | None:
    """Return the spool path of the newest image of a study that is still there, None without one."""
    query = select(instance.c.path).where(instance.c.study_instance_uid == study_uid, instance.c.file_removed == 0)
    query = query.where(instance.c.state == "current").order_by(instance.c.received_at.desc(), instance.c.id.desc())
    return connection.execute(query.limit(1)).scalar()


def sender_of(connection: Connection, study_uid: str) -> tuple[str, str] | None:
    """Return AE title and address of who sent a study last, None where nobody is known."""
    query = (
        select(association.c.ae_title, association.c.address)
        .join(study_association, study_association.c.association_id == association.c.id)
        .where(study_association.c.study_instance_uid == study_uid)
        .order_by(association.c.opened_at.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return (row.ae_title, row.address) if row else None


def count_of(connection: Connection, study_uid: str) -> int:
    """Return how many images of a study are current."""
    images = instance.c.study_instance_uid == study_uid, instance.c.state == "current"
    return int(connection.execute(select(func.count()).select_from(instance).where(*images)).scalar_one())


def study_of(connection: Connection, job_id: str) -> str:
    """Return the Study Instance UID of a job, empty where there is none."""
    return connection.execute(select(job.c.study_instance_uid).where(job.c.id == job_id)).scalar() or ""


def destinations(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return by destination how many parcels are in each state, and what waits longest."""
    found: dict[str, dict[str, Any]] = {}
    counted = select(outbox.c.destination, outbox.c.state, func.count()).group_by(outbox.c.destination, outbox.c.state)
    for name, state, number in connection.execute(counted):
        found.setdefault(name, {})[state] = int(number)
    last = select(outbox.c.destination, func.max(outbox.c.delivered_at)).group_by(outbox.c.destination)
    for name, at in connection.execute(last):
        found[name]["delivered_at"] = at
    stuck = (
        select(outbox.c.destination, outbox.c.answer, outbox.c.tries, result.c.created_at)
        .join(result, result.c.sop_instance_uid == outbox.c.sop_instance_uid)
        .where(outbox.c.state == "waiting")
        .order_by(result.c.created_at.desc())
    )
    for row in connection.execute(stuck):
        found[row.destination] |= {"oldest": row.created_at, "answer": row.answer, "tries": row.tries}
    return found


def rejected(connection: Connection, limit: int = 20) -> list[dict[str, Any]]:
    """Return the parcels that a destination or our own check rejected, the newest first."""
    rows = connection.execute(
        select(outbox.c.destination, outbox.c.answer, outbox.c.job_id, result.c.role, job.c.study_instance_uid)
        .join(result, result.c.sop_instance_uid == outbox.c.sop_instance_uid)
        .join(job, job.c.id == outbox.c.job_id)
        .where(outbox.c.state == "rejected")
        .order_by(outbox.c.id.desc())
        .limit(limit)
    )
    return [dict(row) for row in rows.mappings()]


def happened(
    connection: Connection, kinds: Sequence[str], before: int | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """Return the latest events of these kinds, the newest first; `before`: only with a smaller number."""
    query = select(event).where(event.c.kind.in_(kinds)).order_by(event.c.seq.desc()).limit(limit)
    if before is not None:
        query = query.where(event.c.seq < before)
    return [dict(row) for row in connection.execute(query).mappings()]

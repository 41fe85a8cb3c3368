"""Queries of corrections: objects of others that may speak of our results, what became of them, and whose they are.

The indexer opens a row, in the transaction that keeps the instance; dispatch decides it once. A row never goes away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, exists, func, or_, select, update

from appliance.catalogue import events, receiving
from appliance.catalogue.comparisons import scanner_of
from appliance.catalogue.receiving import ReceivedInstance, upsert
from appliance.catalogue.tables import instance, job, result, series, study
from appliance.catalogue.training_tables import correction

MOST_TRIES = 3  # of reading one object: then it is what ends the process


@dataclass(frozen=True)
class Waiting:
    """An object that was not decided on so far."""

    sop_instance_uid: str
    study_instance_uid: str
    path: str  # relative to the spool
    received_at: datetime
    tries: int


@dataclass(frozen=True)
class Answered:
    """A job of ours that has results of a study."""

    job_id: str
    package: str
    package_digest: str
    series_instance_uid: str
    frame_of_reference: str
    findings: list[dict[str, Any]]  # as recorded with the job
    results: frozenset[str]  # SOP Instance UIDs


@dataclass(frozen=True)
class HeldSeries:
    """Images that are here."""

    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference: str
    patient_key: str
    scanner: str
    paths: tuple[str, ...]  # relative to the spool, or absolute


def open_rows(connection: Connection, new: Sequence[ReceivedInstance]) -> None:
    """Let objects be looked at, of which no row is a result that we made; a newer revision is looked at again."""
    ours = receiving.known_results(connection, [one.sop_instance_uid for one in new])
    for one in new:
        if one.sop_instance_uid in ours:
            continue
        values = {
            "study_instance_uid": one.study_instance_uid,
            "path": one.path,
            "received_at": one.received_at,
            "state": "waiting",
            "tries": 0,
            "decided_at": None,
        }
        row = upsert(connection, correction).values(sop_instance_uid=one.sop_instance_uid, **values)
        connection.execute(row.on_conflict_do_update(index_elements=["sop_instance_uid"], set_=values))


def begin_next(connection: Connection) -> Waiting | None:
    """Return the oldest object whose study rests: complete, routed, and with no job that may yet answer.

    That it was begun is counted, so that an object that ends the process is not begun for ever.
    """
    busy = exists().where(
        job.c.study_instance_uid == correction.c.study_instance_uid, job.c.state.in_(("queued", "running"))
    )
    moves = exists().where(
        study.c.study_instance_uid == correction.c.study_instance_uid,
        or_(study.c.state != "complete", study.c.routed == 0),
    )
    row = connection.execute(
        select(correction)
        .where(correction.c.state == "waiting", ~busy, ~moves)
        .order_by(correction.c.received_at)
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    mine = correction.c.sop_instance_uid == row.sop_instance_uid
    connection.execute(update(correction).where(mine).values(tries=row.tries + 1))
    return Waiting(row.sop_instance_uid, row.study_instance_uid, row.path, row.received_at, row.tries + 1)


def decide(
    connection: Connection, one: Waiting, state: str, reason: str, now: datetime, *, about: Answered | None = None
) -> bool:
    """End an object as kept, noted, not_kept or unrelated, with an event but for the last; False if it moved on."""
    package, job_id = (about.package, about.job_id) if about else ("", "")
    done = connection.execute(
        update(correction)
        .where(correction.c.sop_instance_uid == one.sop_instance_uid, correction.c.path == one.path)
        .where(correction.c.state == "waiting")
        .values(state=state, package=package, job_id=job_id, reason=reason, decided_at=now)
    )
    if done.rowcount and state != "unrelated":
        detail = {"sop_instance_uid": one.sop_instance_uid, "package": package, "reason": reason}
        events.record(connection, f"correction_{state}", study=one.study_instance_uid, job=job_id, **detail)
    return bool(done.rowcount)


def of_study(connection: Connection, study_uid: str) -> list[dict[str, Any]]:
    """Return what came back about a study and what became of it, oldest first; nothing of what is unrelated."""
    rows = connection.execute(
        select(correction)
        .where(correction.c.study_instance_uid == study_uid, correction.c.state != "unrelated")
        .order_by(correction.c.received_at)
    ).mappings()
    shown = ("sop_instance_uid", "state", "package", "reason", "received_at")
    found = [{name: row[name] for name in shown} for row in rows]
    return [one | {"received_at": one["received_at"].isoformat(timespec="milliseconds")} for one in found]


def counts(connection: Connection) -> dict[str, dict[str, int]]:
    """Return how many objects came back about the results of each package, by what became of them."""
    rows = connection.execute(
        select(correction.c.package, correction.c.state, func.count())
        .where(correction.c.package != "")
        .group_by(correction.c.package, correction.c.state)
    )
    found: dict[str, dict[str, int]] = {}
    for package, state, number in rows:
        found.setdefault(package, {})[state] = int(number)
    return found


def answered(connection: Connection, study_uid: str) -> list[Answered]:
    """Return the jobs with results of a study: the newest of each package and series, whatever version made it."""
    rows = connection.execute(
        select(job)
        .where(job.c.study_instance_uid == study_uid, job.c.tells == "", job.c.shadow == 0)
        .order_by(job.c.created_at.desc())
    ).all()
    found: dict[tuple[str, str], Answered] = {}
    for row in rows:
        made = connection.execute(select(result.c.sop_instance_uid).where(result.c.job_id == row.id)).scalars()
        frame = frame_of(connection, study_uid, row.series_instance_uid)
        one = Answered(
            row.id, row.package, row.package_digest, row.series_instance_uid, frame, row.findings, frozenset(made)
        )
        if one.results:
            found.setdefault((one.package, one.series_instance_uid), one)
    return list(found.values())


def held_series(connection: Connection, study_uid: str, series_uid: str) -> HeldSeries | None:
    """Return the images of a series that are in the spool in their newest revision; None where one of them is gone."""
    rows = connection.execute(
        select(instance)
        .where(instance.c.study_instance_uid == study_uid, instance.c.state == "current")
        .where(instance.c.series_instance_uid == series_uid)
        .order_by(instance.c.sop_instance_uid)
    ).all()
    if not rows or any(row.file_removed for row in rows) or len({row.patient_key for row in rows}) > 1:
        return None
    scanner = scanner_of(connection, study_uid, series_uid)
    frame = frame_of(connection, study_uid, series_uid)
    return HeldSeries(study_uid, series_uid, frame, rows[0].patient_key, scanner, tuple(row.path for row in rows))


def frame_of(connection: Connection, study_uid: str, series_uid: str) -> str:
    """Return the Frame of Reference UID of a series' first image."""
    here = (series.c.study_instance_uid == study_uid, series.c.series_instance_uid == series_uid)
    attributes = connection.execute(select(series.c.attributes).where(*here)).scalar() or {}
    return str(attributes.get("FrameOfReferenceUID", ""))


def series_of(connection: Connection, study_uid: str) -> list[str]:
    """Return the Series Instance UIDs of a study's images."""
    query = select(series.c.series_instance_uid).where(series.c.study_instance_uid == study_uid)
    return list(connection.execute(query.order_by(series.c.series_instance_uid)).scalars())

"""Queries of comparisons: which jobs read one input set with two versions of a package, and how they differ."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, exists, insert, literal, or_, select

from appliance.catalogue.tables import comparison, job, result, series


@dataclass(frozen=True)
class Answer:
    """What one job said: findings as recorded, and where its SEG lies."""

    job: str
    package: str
    version: str
    shadow: bool
    findings: list[dict[str, Any]]
    segmentation: str | None  # relative to the results folder


@dataclass(frozen=True)
class Pair:
    """Two answers of different versions on the same images."""

    first: Answer  # of the version whose results leave the appliance, else of the one that ran first
    second: Answer
    scanner: str


def uncompared(connection: Connection, job_id: str) -> list[Pair]:
    """Return the pairs of this job with jobs of other versions that have results of its images, not compared so far."""
    mine = connection.execute(select(job).where(job.c.id == job_id)).one()
    others = connection.execute(
        select(job)
        .where(job.c.study_instance_uid == mine.study_instance_uid, job.c.input_set == mine.input_set)
        .where(job.c.package == mine.package, job.c.id != job_id)
        .where(_has_results(job), ~_known(literal(job_id), job.c.id))
        .order_by(job.c.created_at)
    ).all()
    scanner = scanner_of(connection, mine.study_instance_uid, mine.series_instance_uid)
    pairs = []
    for other in others:
        first, second = sorted((mine, other), key=lambda row: (row.shadow, row.created_at))
        pairs.append(Pair(_answer(connection, first), _answer(connection, second), scanner))
    return pairs


def _has_results(of: Any) -> Any:
    return select(result.c.job_id).where(result.c.job_id == of.c.id, of.c.tells == "").exists()


def _known(one: Any, other: Any) -> Any:
    return exists().where(
        or_(
            (comparison.c.job_a == one) & (comparison.c.job_b == other),
            (comparison.c.job_b == one) & (comparison.c.job_a == other),
        )
    )


def left(connection: Connection) -> list[str]:
    """Return the jobs with results that were not compared with one of another version: a worker died before."""
    other = job.alias()
    same = [job.c[name] == other.c[name] for name in ("study_instance_uid", "input_set", "package")]
    query = select(job.c.id).join(other, and_(*same, job.c.id < other.c.id)).distinct()
    unknown = (_has_results(job), _has_results(other), ~_known(job.c.id, other.c.id))
    return list(connection.execute(query.where(*unknown)).scalars())


def _answer(connection: Connection, row: Any) -> Answer:
    path = connection.execute(
        select(result.c.path).where(result.c.job_id == row.id, result.c.role == "SEG").order_by(result.c.path)
    ).scalars()
    return Answer(row.id, row.package, row.package_version, bool(row.shadow), row.findings, next(iter(path), None))


def scanner_of(connection: Connection, study_uid: str, series_uid: str) -> str:
    """Return manufacturer and model of a series, "unknown" where it says neither."""
    where = (series.c.study_instance_uid == study_uid, series.c.series_instance_uid == series_uid)
    attributes = connection.execute(select(series.c.attributes).where(*where)).scalar() or {}
    named = [str(attributes.get(keyword, "")) for keyword in ("Manufacturer", "ManufacturerModelName")]
    return " ".join(filter(None, named))[:128] or "unknown"


def keep(connection: Connection, pair: Pair, figures: dict[str, Any], now: datetime) -> None:
    """Record how the two answers of a pair differ."""
    connection.execute(
        insert(comparison).values(
            job_a=pair.first.job,
            job_b=pair.second.job,
            package=pair.first.package,
            version_a=pair.first.version,
            version_b=pair.second.version,
            scanner=pair.scanner,
            figures=figures,
            at=now,
        )
    )


def between(connection: Connection, package: str, one: str, other: str) -> list[dict[str, Any]]:
    """Return the comparisons of two versions, oldest first: scanner, and figures with `one` as the first."""
    rows = connection.execute(
        select(comparison)
        .where(comparison.c.package == package)
        .where(comparison.c.version_a.in_((one, other)), comparison.c.version_b.in_((one, other)))
        .order_by(comparison.c.at)
    ).all()
    return [{"scanner": row.scanner, "turned": row.version_a != one, **row.figures} for row in rows]

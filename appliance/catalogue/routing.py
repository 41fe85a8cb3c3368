"""Queries of routing: what a complete study looks like, and what was decided about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from appliance.catalogue import events, forgetting
from appliance.catalogue.adoption import adopt
from appliance.catalogue.rejections import rejected
from appliance.catalogue.tables import (
    instance,
    job,
    job_destination,
    job_input,
    outbox,
    outcome,
    result,
    series,
    study,
)
from appliance.job import input_set_digest, job_id
from appliance.routing import RouteDecision
from appliance.study import FrameGeometry, SeriesSummary, StudySummary


@dataclass(frozen=True)
class RoutedPackage:
    """The route and the package version that a decision speaks of."""

    route: str
    package: str
    version: str
    digest: str
    destinations: tuple[str, ...]
    priority: int
    shadow: bool = False  # its results stay in the appliance
    negative: bool = True  # whether the route wants a result without a finding
    accepted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # destination → roles it takes
    anew: bool = False  # a person asks for this version, whatever answered before


def studies_to_route(connection: Connection) -> list[str]:
    """Return the complete studies that have not been routed since."""
    rows = connection.execute(
        select(study.c.study_instance_uid).where(study.c.state == "complete", study.c.routed == 0)
    )
    return list(rows.scalars())


def is_routed(connection: Connection, study_uid: str) -> bool:
    """Return whether a study is complete and every route has decided about it."""
    where = (study.c.study_instance_uid == study_uid, study.c.state == "complete", study.c.routed == 1)
    return connection.execute(select(study.c.study_instance_uid).where(*where)).first() is not None


def study_summary(connection: Connection, study_uid: str) -> StudySummary:
    """Return the study as routing sees it: current images only."""
    rows = connection.execute(
        select(instance).where(instance.c.study_instance_uid == study_uid).order_by(instance.c.id)
    ).all()
    taken_back = rejected(connection, study_uid)
    images = [row for row in rows if row.state == "current" and row.sop_instance_uid not in taken_back]
    headers = connection.execute(select(series).where(series.c.study_instance_uid == study_uid)).all()
    problem = _problem(rows)
    found = tuple(_series(header, images) for header in headers)
    return StudySummary(study_uid, tuple(one for one in found if one.instances), problem)


def _problem(rows: Sequence[Any]) -> str:
    images = [row for row in rows if row.state in ("current", "conflict")]
    patients = {row.patient_key for row in images if row.state == "current"}
    if len(patients) > 1:
        return f"the study holds images of {len(patients)} patients; no result is made until the PACS corrects it"
    conflicts = {row.sop_instance_uid for row in images if row.state == "conflict"}
    if conflicts:
        return (
            f"other pixels arrived under the known UID of {len(conflicts)} image(s); they are set aside and "
            "no result is made"
        )
    return ""


def _series(header: Any, images: Sequence[Any]) -> SeriesSummary:
    mine = [row for row in images if row.series_instance_uid == header.series_instance_uid]
    return SeriesSummary(
        series_instance_uid=header.series_instance_uid,
        modality=header.modality,
        sop_class_uids=frozenset(row.sop_class_uid for row in mine),
        attributes=header.attributes,
        geometry=tuple(geometry_from_row(plane) for row in mine for plane in row.geometry),
        instances=tuple(sorted((row.sop_instance_uid, _content(row)) for row in mine)),
    )


def _content(row: Any) -> str:
    return f"{row.header_digest}{row.pixel_digest}"


def geometry_from_row(plane: dict[str, Any]) -> FrameGeometry:
    """Return the FrameGeometry that a JSON column holds."""
    values = dict(plane)
    for key in ("position", "orientation", "pixel_spacing"):
        if values.get(key) is not None:
            values[key] = tuple(values[key])
    return FrameGeometry(**values)


def record_decision(
    connection: Connection,
    summary: StudySummary,
    target: RoutedPackage,
    decision: RouteDecision,
    now: datetime,
) -> str | None:
    """Write the outcome of one route, and its job where there is one. Returns the id of a job that is new."""
    key = (outcome.c.study_instance_uid == summary.study_instance_uid, outcome.c.route == target.route)
    before = connection.execute(select(outcome.c.job_id).where(*key)).scalar()
    new_id = None
    identity = None
    if decision.outcome == "job":
        identity, new = _open_job(connection, summary, target, decision.series, before, now)
        new_id = identity if new else None
    connection.execute(delete(outcome).where(*key))
    connection.execute(
        insert(outcome).values(
            study_instance_uid=summary.study_instance_uid,
            route=target.route,
            package=target.package,
            package_version=_version_of(connection, identity) or target.version,
            outcome=decision.outcome,
            reason=decision.reason,
            job_id=identity,
            decided_at=now,
        )
    )
    if identity is not None and new_id is None:
        replaced = None if identity == before else _last_with_results(connection, before)
        adopt(connection, identity, target.priority, target.accepted, replaced, now)
    if decision.outcome == "failed":
        _withdraw(connection, summary.study_instance_uid, target.package, decision.reason, now)
    return new_id


def _version_of(connection: Connection, job_id: str | None) -> str | None:
    """Return the version that a job runs: an earlier one may have answered already."""
    return connection.execute(select(job.c.package_version).where(job.c.id == job_id)).scalar()


def _withdraw(connection: Connection, study_uid: str, package: str, reason: str, now: datetime) -> None:
    """End what is not yet in a PACS of a study that turned out to contradict itself: jobs, and results that wait."""
    done = connection.execute(
        update(job)
        .where(job.c.study_instance_uid == study_uid, job.c.package == package)
        .where(job.c.state.in_(("queued", "running", "delivering")))
        .values(state="failed", reason=reason, finished_at=now, token=job.c.token + 1)
        .returning(job.c.id)
    )
    for id in done.scalars().all():
        events.record(connection, "job_failed", study=study_uid, job=id, reason=reason)
        connection.execute(
            update(outbox)
            .where(outbox.c.job_id == id, outbox.c.state == "waiting")
            .values(state="rejected", answer=f"not sent: {reason}")
        )


def job_of(connection: Connection, study_uid: str, route: str) -> str:
    """Return the job that answers a route for a study, nothing where none does."""
    mine = (outcome.c.study_instance_uid == study_uid, outcome.c.route == route)
    return str(connection.execute(select(outcome.c.job_id).where(*mine)).scalar() or "")


def open_shadow(
    connection: Connection, summary: StudySummary, target: RoutedPackage, decision: RouteDecision, now: datetime
) -> tuple[str, bool]:
    """Open a job whose results stay here, after all others and without an outcome; its id, and whether it is new."""
    return _open_job(connection, summary, target, decision.series, None, now)


def _open_job(
    connection: Connection,
    summary: StudySummary,
    target: RoutedPackage,
    chosen: Sequence[tuple[str, str]],
    before: str | None,
    now: datetime,
) -> tuple[str, bool]:
    digest = input_set_digest(_instances(summary, chosen))
    answered = _answered(connection, before, digest, target)
    identity = answered or job_id(digest, target.digest)
    known = connection.execute(select(job.c.id).where(job.c.id == identity)).first()
    if known is None:
        replaced = _last_with_results(connection, before)
        _insert_job(connection, summary, target, chosen, digest, identity, replaced, now)
    for name in target.destinations:
        here = (job_destination.c.job_id == identity, job_destination.c.destination == name)
        present = connection.execute(select(job_destination.c.negative).where(*here)).first()
        if present is None:
            negative = int(target.negative)
            connection.execute(insert(job_destination).values(job_id=identity, destination=name, negative=negative))
        elif target.negative and not present.negative:
            connection.execute(update(job_destination).where(*here).values(negative=1))
    return identity, known is None


def _instances(summary: StudySummary, chosen: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    uids = {uid for _, uid in chosen}
    return [pair for one in summary.series if one.series_instance_uid in uids for pair in one.instances]


def _answered(connection: Connection, before: str | None, digest: str, target: RoutedPackage) -> str | None:
    """Return the job that answers or will answer this input set already, though by an earlier version of the package.

    A newly promoted version reads what comes from now on; it does not read unchanged studies once more.
    """
    if before is None or target.anew:
        return None
    row = connection.execute(select(job).where(job.c.id == before)).one()
    same = (row.input_set, row.package) == (digest, target.package)
    ended = row.state in ("failed", "cancelled", "superseded") or forgetting.answer_is_gone(connection, row)
    return before if same and not ended else None


def _last_with_results(connection: Connection, job_id: str | None) -> str | None:
    """Return this job, or the one it was to replace and so on, that has results: what a new result supersedes."""
    while job_id is not None:
        if connection.execute(select(result.c.job_id).where(result.c.job_id == job_id)).first():
            return job_id
        job_id = connection.execute(select(job.c.supersedes).where(job.c.id == job_id)).scalar()
    return None


def _supersede_unasked(connection: Connection, study_uid: str, now: datetime) -> None:
    """Supersede the unfinished jobs of a study that no route's outcome names any more."""
    named = select(outcome.c.job_id).where(outcome.c.study_instance_uid == study_uid, outcome.c.job_id.is_not(None))
    done = connection.execute(
        update(job)
        .where(job.c.study_instance_uid == study_uid, job.c.id.not_in(named), job.c.shadow == 0)
        .where(job.c.state.in_(("queued", "running")))
        .values(state="superseded", reason="images arrived later", finished_at=now, token=job.c.token + 1)
        .returning(job.c.id)
    )
    for id in done.scalars().all():
        events.record(connection, "job_superseded", study=study_uid, job=id)


def _supersede_outdated_shadows(connection: Connection, study_uid: str, now: datetime) -> None:
    """Supersede the unfinished shadow jobs of a study whose images are no longer the current ones."""
    summary = study_summary(connection, study_uid)
    rows = connection.execute(
        select(job.c.id, job.c.inputs, job.c.input_set)
        .where(job.c.study_instance_uid == study_uid, job.c.shadow == 1)
        .where(job.c.state.in_(("queued", "running")))
    ).all()
    outdated = [row.id for row in rows if input_set_digest(_instances(summary, row.inputs)) != row.input_set]
    connection.execute(
        update(job)
        .where(job.c.id.in_(outdated))
        .values(state="superseded", reason="images arrived later", finished_at=now, token=job.c.token + 1)
    )
    for id in outdated:
        events.record(connection, "job_superseded", study=study_uid, job=id)


def _insert_job(
    connection: Connection,
    summary: StudySummary,
    target: RoutedPackage,
    chosen: Sequence[tuple[str, str]],
    digest: str,
    identity: str,
    supersedes: str | None,
    now: datetime,
) -> None:
    connection.execute(
        insert(job).values(
            id=identity,
            study_instance_uid=summary.study_instance_uid,
            series_instance_uid=chosen[0][1],
            inputs=[list(one) for one in chosen],
            shadow=int(target.shadow),
            package=target.package,
            package_version=target.version,
            package_digest=target.digest,
            input_set=digest,
            priority=target.priority,
            state="queued",
            due_at=now,
            supersedes=supersedes,
            created_at=now,
            timings={},
            findings=[],
        )
    )
    taken_back = rejected(connection, summary.study_instance_uid)
    rows = connection.execute(
        select(instance.c.sop_instance_uid, instance.c.id).where(
            instance.c.study_instance_uid == summary.study_instance_uid,
            instance.c.series_instance_uid.in_([uid for _, uid in chosen]),
            instance.c.state == "current",
        )
    ).all()
    connection.execute(
        insert(job_input),
        [
            {"job_id": identity, "sop_instance_uid": r.sop_instance_uid, "instance_id": r.id}
            for r in rows
            if r.sop_instance_uid not in taken_back
        ],
    )
    events.record(
        connection,
        "job_queued",
        study=summary.study_instance_uid,
        job=identity,
        package=target.package,
        version=target.version,
        inputs=len(rows),
    )


def mark_routed(connection: Connection, study_uid: str, now: datetime) -> None:
    """Record that every route has decided about the study, and end the jobs that none of them wants any more."""
    _supersede_unasked(connection, study_uid, now)
    _supersede_outdated_shadows(connection, study_uid, now)
    connection.execute(
        update(study).where(study.c.study_instance_uid == study_uid, study.c.state == "complete").values(routed=1)
    )
    events.record(connection, "study_routed", study=study_uid)

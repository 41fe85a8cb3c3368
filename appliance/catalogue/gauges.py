"""What is measured of the flow: what came since one last looked, what waits now, how long studies take. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from appliance.catalogue import overview
from appliance.catalogue.tables import (
    engine_report,
    event,
    instance,
    job,
    outbox,
    outcome,
    package_version,
    result,
    study,
)

AT_ONCE = 5000
REHEARSAL = "rehearsal_began"  # the event that tells a phantom's study from a patient's


def newest(connection: Connection) -> tuple[int, int]:
    """Return the greatest row number of images and of events."""
    image = connection.execute(select(func.max(instance.c.id))).scalar()
    happened = connection.execute(select(func.max(event.c.seq))).scalar()
    return image or 0, happened or 0


def images_after(connection: Connection, number: int, until: int) -> Sequence[Any]:
    """Return state, count and bytes of images by row number, `number` exclusive."""
    query = select(instance.c.state, func.count().label("images"), func.sum(instance.c.bytes).label("bytes"))
    return connection.execute(
        query.where(instance.c.id > number, instance.c.id <= until).group_by(instance.c.state)
    ).all()


def events_after(connection: Connection, seq: int) -> Sequence[Any]:
    """Return number, kind, job and detail of the events after one."""
    columns = (event.c.seq, event.c.kind, event.c.job_id, event.c.detail)
    return connection.execute(select(*columns).where(event.c.seq > seq).order_by(event.c.seq).limit(AT_ONCE)).all()


def package_of(connection: Connection, job_id: str) -> str:
    """Return the package of a job."""
    return str(connection.execute(select(job.c.package).where(job.c.id == job_id)).scalar() or "")


def packages(connection: Connection) -> list[str]:
    """Return the packages that are installed."""
    return list(connection.execute(select(package_version.c.package).distinct()).scalars())


@dataclass(frozen=True)
class Waiting:
    """What waits: how many, and since when the oldest."""

    name: str
    state: str
    count: int
    oldest: datetime


def jobs_waiting(connection: Connection) -> list[Waiting]:
    """Return clinical jobs that are not at their end, by package and state."""
    open_ones = (job.c.state.in_(("queued", "running", "delivering")), job.c.shadow == 0)
    query = select(job.c.package, job.c.state, func.count(), func.min(job.c.created_at)).where(*open_ones)
    rows = connection.execute(query.group_by(job.c.package, job.c.state)).all()
    return [Waiting(*row) for row in rows]


def results_waiting(connection: Connection) -> list[Waiting]:
    """Return results on their way, by destination and state, with when the oldest was written."""
    query = (
        select(outbox.c.destination, outbox.c.state, func.count(), func.min(result.c.created_at))
        .join(result, result.c.sop_instance_uid == outbox.c.sop_instance_uid)
        .where(outbox.c.state.in_(("waiting", "delivered", "rejected")))
    )
    rows = connection.execute(query.group_by(outbox.c.destination, outbox.c.state)).all()
    return [Waiting(*row) for row in rows]


def rejected(connection: Connection, since: datetime) -> dict[str, int]:
    """Return by destination how many results it rejected whose jobs failed since a moment and were not tried again."""
    query = select(outbox.c.destination, func.count()).join(job, job.c.id == outbox.c.job_id)
    query = query.where(outbox.c.state == "rejected", *_failed(since)).group_by(outbox.c.destination)
    return {name: int(count) for name, count in connection.execute(query)}


def failed(connection: Connection, since: datetime) -> dict[str, int]:
    """Return by package how many clinical jobs failed since a moment and were not tried again."""
    query = select(job.c.package, func.count()).where(*_failed(since)).group_by(job.c.package)
    return {name: int(count) for name, count in connection.execute(query)}


def _failed(since: datetime) -> tuple[Any, ...]:
    return job.c.state == "failed", job.c.shadow == 0, job.c.finished_at >= since, ~_rehearsed()


def _rehearsed() -> Any:
    """A job on the phantom of `curie rehearse`: no patient's, so it is neither trouble nor turnaround."""
    return job.c.study_instance_uid.in_(select(event.c.study_instance_uid).where(event.c.kind == REHEARSAL))


def engines(connection: Connection) -> Sequence[Any]:
    """Return package, version, host, device, engine, precision and memory of what active versions run on."""
    query = (
        select(
            package_version.c.package, package_version.c.version, engine_report.c.host, engine_report.c.device,
            engine_report.c.engine, engine_report.c.precision, engine_report.c.memory_mb,
        )
        .join(engine_report, engine_report.c.package_digest == package_version.c.digest)
        .where(package_version.c.state == "active")
    )  # fmt: skip
    return connection.execute(query).all()


def turnarounds(connection: Connection, since: datetime, route: str = "") -> list[tuple[str, dict[str, float]]]:
    """Return route and seconds of every step of the clinical jobs that ended well since a moment."""
    query = (
        select(outcome.c.route, job, study.c.last_received_at)
        .join(job, job.c.id == outcome.c.job_id)
        .join(study, study.c.study_instance_uid == outcome.c.study_instance_uid)
        .where(job.c.state == "completed", job.c.shadow == 0, job.c.finished_at >= since, ~_rehearsed())
    )
    if route:
        query = query.where(outcome.c.route == route)
    rows = connection.execute(query.order_by(job.c.finished_at)).all()
    return [(row.route, overview.timings(connection, row, row.last_received_at)) for row in rows]


def job_and_study(connection: Connection, job_id: str) -> Any:
    """Return package, version, state and start of a job, and when the last image of its study came."""
    columns = (job.c.package, job.c.package_version, job.c.state, study.c.last_received_at)
    query = select(*columns).join(study, study.c.study_instance_uid == job.c.study_instance_uid)
    return connection.execute(query.where(job.c.id == job_id)).one_or_none()

"""Queries that let a study be forgotten: what tells of the patient goes, the record that something was done stays.

What was kept is forgotten, not the UID: a study that its hospital sends again is taken as any other, and read anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, func, select, update

from appliance.catalogue import events, outbox, training
from appliance.catalogue.tables import event, instance, job, result, series, study
from appliance.errors import Missing

IN_WORK = "a job of it runs or waits; `curie jobs cancel` it, or let it end, then ask again"
FORGOTTEN = "the study was forgotten"
RETURNED = "forgotten_study_returned"
IMAGES = instance.c.state.in_(("current", "replaced", "document"))


@dataclass(frozen=True)
class Forgotten:
    """That a study was forgotten, and did not come again since."""

    at: datetime
    who: str
    reason: str

    def record(self) -> dict[str, str]:
        """Return it as a JSON record."""
        return {"at": self.at.isoformat(timespec="milliseconds"), "who": self.who, "reason": self.reason}

    def __str__(self) -> str:
        return f"forgotten on {self.at:%Y-%m-%d} by {self.who}"


@dataclass(frozen=True)
class Left:
    """Files whose rows say that they are gone: whoever asked deletes them."""

    images: tuple[str, ...]  # relative to the spool
    results: tuple[str, ...]  # relative to the results folder
    cases: tuple[str, ...]  # relative to the folder of the training set
    before: Forgotten | None = None  # it was forgotten already, and nothing of it came since


def forgotten_among(connection: Connection, uids: Sequence[str]) -> dict[str, Forgotten]:
    """Return when and by whom those of these studies were forgotten that are not held."""
    query = select(event).where(event.c.study_instance_uid.in_(uids), event.c.kind.in_(("study_forgotten", RETURNED)))
    found: dict[str, Forgotten] = {}
    for row in connection.execute(query.order_by(event.c.seq)):
        found.pop(row.study_instance_uid, None)
        if row.kind != RETURNED:
            found[row.study_instance_uid] = Forgotten(row.at, row.detail["who"], row.detail["reason"])
    return found


def forgotten(connection: Connection, uid: str) -> Forgotten | None:
    """Return when and by whom a study was forgotten, None for one that is held."""
    return forgotten_among(connection, [uid]).get(uid)


def _nothing_came_since(connection: Connection, uid: str) -> Forgotten | None:
    here = select(instance.c.id).where(instance.c.study_instance_uid == uid, instance.c.file_removed == 0)
    return None if connection.execute(here.limit(1)).first() else forgotten(connection, uid)


def forget(connection: Connection, uid: str, who: str, reason: str, now: datetime) -> Left:
    """Blank what a study's rows tell of the patient; asked again, it returns the same files. Raises Missing."""
    before = _nothing_came_since(connection, uid)
    of_study = job.c.study_instance_uid == uid
    jobs = connection.execute(select(job.c.id, job.c.state).where(of_study)).all()
    receiving = connection.execute(select(study.c.state).where(study.c.study_instance_uid == uid)).scalar()
    if receiving == "receiving" or any(one.state in ("queued", "running") for one in jobs):
        raise Missing("it is still received" if receiving == "receiving" else IN_WORK)
    for one in jobs:
        outbox.withdraw(connection, one.id, FORGOTTEN)
    training.forget_study(connection, uid, FORGOTTEN, now)
    images = connection.execute(
        update(instance)
        .where(instance.c.study_instance_uid == uid)
        .values(file_removed=1, patient_key="", geometry=[], state=case((IMAGES, "forgotten"), else_=instance.c.state))
        .returning(instance.c.path)
    ).scalars()
    left = Left(
        tuple(images),
        tuple(connection.execute(select(result.c.path).where(result.c.job_id.in_([one.id for one in jobs]))).scalars()),
        tuple(training.paths_of_study(connection, uid)),
        before,
    )
    connection.execute(update(series).where(series.c.study_instance_uid == uid).values(attributes={}))
    connection.execute(update(study).where(study.c.study_instance_uid == uid).values(accession_number=""))
    connection.execute(update(job).where(of_study).values(findings=[], patient_key="", study_date=""))
    if before is None:
        counts = [len(one) for one in (left.images, left.results, left.cases)]
        events.record(connection, "study_forgotten", study=uid, who=who, reason=reason, files=counts)
    return left


def came_again(connection: Connection, uid: str, accession_number: str) -> None:
    """Put on record that a forgotten study is here again, if it is one; its jobs are opened anew when it is routed."""
    if forgotten(connection, uid) is not None:
        number = {"accession_number": accession_number}
        connection.execute(update(study).where(study.c.study_instance_uid == uid).values(**number))
        events.record(connection, RETURNED, study=uid)


def answer_is_gone(connection: Connection, row: Any) -> bool:
    """Tell whether what a job had answered went when its study was forgotten. `row`: of the job."""
    query = select(func.max(event.c.at)).where(event.c.kind == "study_forgotten")
    at = connection.execute(query.where(event.c.study_instance_uid == row.study_instance_uid)).scalar()
    begun = row.started_at or row.created_at
    return at is not None and row.state not in ("queued", "running") and bool(begun < at)

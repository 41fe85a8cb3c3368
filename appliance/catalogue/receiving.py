"""Queries of the receiving side: associations, instances, studies. It must never be called before an answer.

Only the indexer of a host writes instances. Rule 3 of the design decides what a repeated SOP Instance UID means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from appliance.catalogue import events
from appliance.catalogue.tables import (
    association,
    instance,
    job,
    job_input,
    outbox,
    result,
    series,
    study,
    study_association,
)
from appliance.completeness import AssociationFact, StudyFacts

IMAGE_STATES = ("current", "replaced", "conflict")


@dataclass(frozen=True)
class ReceivedInstance:
    """One spool file as the indexer read it."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    path: str  # relative to the spool
    bytes: int
    header_digest: str
    pixel_digest: str
    patient_key: str
    state: str  # current, result, document or unreadable
    received_at: datetime
    association_id: str = ""
    modality: str = ""
    accession_number: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    geometry: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class KnownInstance:
    """What the catalogue holds under a SOP Instance UID: its newest image revision, or a result."""

    id: int
    revision: int
    path: str
    header_digest: str
    pixel_digest: str
    transfer_syntax_uid: str
    state: str
    file_removed: int = 0  # 1: retention deleted the file, the record stayed


def _upsert(connection: Connection, table: Any) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def open_association(
    connection: Connection, id: str, ae_title: str, address: str, now: datetime, lease_s: float
) -> None:
    """Record an association as open, for as long as its lease is renewed."""
    connection.execute(
        insert(association).values(
            id=id,
            ae_title=ae_title,
            address=address,
            opened_at=now,
            lease_until=now + timedelta(seconds=lease_s),
        )
    )


def renew_associations(connection: Connection, ids: Sequence[str], now: datetime, lease_s: float) -> None:
    """Move the lease of open associations on."""
    until = now + timedelta(seconds=lease_s)
    connection.execute(update(association).where(association.c.id.in_(ids)).values(lease_until=until))


def end_association(connection: Connection, id: str, aborted: bool, now: datetime) -> None:
    """Record that an association was released, or aborted."""
    connection.execute(update(association).where(association.c.id == id).values(ended_at=now, aborted=int(aborted)))


def end_orphaned_associations(connection: Connection, now: datetime) -> int:
    """End, as aborted, the associations that an earlier receiver process left open."""
    done = connection.execute(
        update(association).where(association.c.ended_at.is_(None)).values(ended_at=now, aborted=1)
    )
    return done.rowcount


def known_instance(connection: Connection, sop_instance_uid: str) -> KnownInstance | None:
    """Return the newest revision under this UID that counts, or None."""
    row = connection.execute(
        select(
            instance.c.id,
            instance.c.revision,
            instance.c.path,
            instance.c.header_digest,
            instance.c.pixel_digest,
            instance.c.transfer_syntax_uid,
            instance.c.state,
            instance.c.file_removed,
        )
        .where(instance.c.sop_instance_uid == sop_instance_uid, instance.c.state != "conflict")
        .order_by(instance.c.revision.desc())
        .limit(1)
    ).one_or_none()
    return KnownInstance(**row._mapping) if row else None


def last_revision(connection: Connection, sop_instance_uid: str) -> int:
    """Return the highest revision number under this UID, 0 when there is none."""
    highest = select(func.max(instance.c.revision)).where(instance.c.sop_instance_uid == sop_instance_uid)
    return int(connection.execute(highest).scalar() or 0)


def is_known_result(connection: Connection, sop_instance_uid: str) -> bool:
    """Return whether this appliance made an object of this UID."""
    query = select(result.c.sop_instance_uid).where(result.c.sop_instance_uid == sop_instance_uid)
    return connection.execute(query).first() is not None


def paths_known(connection: Connection) -> set[str]:
    """Return the relative paths of all spool files that have a row."""
    return set(connection.execute(select(instance.c.path).where(instance.c.file_removed == 0)).scalars())


def count_again(connection: Connection, id: int) -> None:
    """Count one more arrival of the same content."""
    connection.execute(update(instance).where(instance.c.id == id).values(times_received=instance.c.times_received + 1))


def add_instance(connection: Connection, new: ReceivedInstance, revision: int, state: str) -> None:
    """Add one row; the study's state is the caller's to move (`touch_study`)."""
    connection.execute(
        insert(instance).values(
            sop_instance_uid=new.sop_instance_uid,
            revision=revision,
            study_instance_uid=new.study_instance_uid,
            series_instance_uid=new.series_instance_uid,
            sop_class_uid=new.sop_class_uid,
            transfer_syntax_uid=new.transfer_syntax_uid,
            path=new.path,
            bytes=new.bytes,
            header_digest=new.header_digest,
            pixel_digest=new.pixel_digest,
            patient_key=new.patient_key,
            state=state,
            geometry=new.geometry,
            received_at=new.received_at,
        )
    )


def row_at(connection: Connection, path: str) -> tuple[int, str] | None:
    """Return (id, state) of the row that has this spool file, or None."""
    row = connection.execute(select(instance.c.id, instance.c.state).where(instance.c.path == path)).one_or_none()
    return (row.id, row.state) if row else None


def keep_file(connection: Connection, id: int, new: ReceivedInstance) -> None:
    """Let a row have this file: the one it had was deleted by retention, or is this one."""
    connection.execute(
        update(instance)
        .where(instance.c.id == id)
        .values(path=new.path, bytes=new.bytes, transfer_syntax_uid=new.transfer_syntax_uid, file_removed=0)
    )


def make_current(connection: Connection, id: int, revision: int) -> None:
    """Let an older header count again, as the newest revision."""
    connection.execute(update(instance).where(instance.c.id == id).values(state="current", revision=revision))


def replace_instance(connection: Connection, id: int) -> None:
    """Mark a revision as replaced by a newer header."""
    connection.execute(update(instance).where(instance.c.id == id).values(state="replaced"))


def touch_study(connection: Connection, new: ReceivedInstance) -> None:
    """Open the study for receiving, or note that it grew; a complete study opens again."""
    at = new.received_at
    row = connection.execute(
        select(study.c.state).where(study.c.study_instance_uid == new.study_instance_uid)
    ).one_or_none()
    if row is None:
        connection.execute(
            insert(study).values(
                study_instance_uid=new.study_instance_uid,
                accession_number=new.accession_number,
                state="receiving",
                first_received_at=at,
                last_received_at=at,
            )
        )
        return
    change: dict[str, Any] = {"last_received_at": at, "state": "receiving"}
    if row.state == "complete":
        change["first_received_at"] = at
    connection.execute(update(study).where(study.c.study_instance_uid == new.study_instance_uid).values(**change))


def touch_series(connection: Connection, new: ReceivedInstance) -> None:
    """Make sure the series has a row; the attributes are those of its first image."""
    connection.execute(
        _upsert(connection, series)
        .values(
            study_instance_uid=new.study_instance_uid,
            series_instance_uid=new.series_instance_uid,
            modality=new.modality,
            attributes=new.attributes,
        )
        .on_conflict_do_nothing()
    )


def is_complete(connection: Connection, study_uid: str) -> bool:
    """Return whether the study is known and complete."""
    state = connection.execute(select(study.c.state).where(study.c.study_instance_uid == study_uid)).scalar()
    return state == "complete"


def link_association(connection: Connection, study_uid: str, association_id: str) -> None:
    """Note that an association brought instances of a study."""
    connection.execute(
        _upsert(connection, study_association)
        .values(study_instance_uid=study_uid, association_id=association_id)
        .on_conflict_do_nothing()
    )


def receiving_studies(connection: Connection) -> dict[str, StudyFacts]:
    """Return the facts of every study that is being received, by Study Instance UID."""
    studies = connection.execute(
        select(study.c.study_instance_uid, study.c.first_received_at, study.c.last_received_at).where(
            study.c.state == "receiving"
        )
    ).all()
    return {
        row.study_instance_uid: StudyFacts(
            row.first_received_at, row.last_received_at, _associations(connection, row.study_instance_uid)
        )
        for row in studies
    }


def _associations(connection: Connection, study_uid: str) -> list[AssociationFact]:
    rows = connection.execute(
        select(association.c.lease_until, association.c.ended_at, association.c.aborted)
        .join(study_association, study_association.c.association_id == association.c.id)
        .where(study_association.c.study_instance_uid == study_uid)
    ).all()
    return [AssociationFact(row.lease_until, row.ended_at, bool(row.aborted)) for row in rows]


def complete_study(
    connection: Connection, study_uid: str, reason: str, last_received_at: datetime, now: datetime
) -> bool:
    """Mark a study complete; False when it grew since the facts were read."""
    done = connection.execute(
        update(study)
        .where(
            study.c.study_instance_uid == study_uid,
            study.c.state == "receiving",
            study.c.last_received_at == last_received_at,
        )
        .values(state="complete", complete_at=now, complete_reason=reason, routed=0)
    )
    if done.rowcount:
        events.record(connection, "study_complete", study=study_uid, reason=reason)
    return bool(done.rowcount)


def removable_files(connection: Connection, before: datetime, limit: int = 500) -> list[tuple[int, str]]:
    """Return (row id, path) of spool files received before a moment that no job or delivery needs, oldest first."""
    needed = (
        select(job_input.c.instance_id)
        .join(job, job.c.id == job_input.c.job_id)
        .where(job.c.state.in_(("queued", "running", "delivering")))
    )
    waiting = (
        select(job_input.c.instance_id)
        .join(outbox, outbox.c.job_id == job_input.c.job_id)
        .where(outbox.c.state == "waiting")
    )
    receiving = select(study.c.study_instance_uid).where(or_(study.c.state == "receiving", study.c.routed == 0))
    rows = connection.execute(
        select(instance.c.id, instance.c.path)
        .where(
            and_(
                instance.c.file_removed == 0,
                instance.c.received_at < before,
                instance.c.id.not_in(needed),
                instance.c.id.not_in(waiting),
                instance.c.study_instance_uid.not_in(receiving),
            )
        )
        .order_by(instance.c.received_at)
        .limit(limit)
    ).all()
    return [(row.id, row.path) for row in rows]


def mark_removed(connection: Connection, ids: Sequence[int]) -> None:
    """Record that spool files are about to be deleted; the records stay."""
    connection.execute(update(instance).where(instance.c.id.in_(ids)).values(file_removed=1))

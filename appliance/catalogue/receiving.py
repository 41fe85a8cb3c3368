"""Queries of the receiving side: associations and instances. It must never be called before an answer.

Only the indexer of a host writes instances. Rule 3 of the design decides what a repeated SOP Instance UID means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from appliance.catalogue.tables import association, instance, result


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
    number: int | None = None  # Instance Number
    study_expected: int | None = None  # (0020,1208), where the header says it
    series_expected: int | None = None  # (0020,1209)
    rejection: str = ""  # code of a rejection note (IHE IOCM), of which this is one
    rejects: tuple[tuple[str, str], ...] = ()  # (Study, SOP) Instance UIDs that it rejects


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


def upsert(connection: Connection, table: Any) -> Any:
    """Return an INSERT that may say what to do on conflict."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def open_association(
    connection: Connection, id: str, ae_title: str, address: str, now: datetime, lease_s: float
) -> None:
    """Record an association as open, for as long as its lease is renewed; one that is known is renewed."""
    until = now + timedelta(seconds=lease_s)
    new = upsert(connection, association).values(
        id=id, ae_title=ae_title, address=address, opened_at=now, lease_until=until
    )
    connection.execute(new.on_conflict_do_update(index_elements=["id"], set_={"lease_until": until}))


def renew_associations(connection: Connection, ids: Sequence[str], now: datetime, lease_s: float) -> None:
    """Move the lease of open associations on."""
    until = now + timedelta(seconds=lease_s)
    mine = (association.c.id.in_(ids), association.c.ended_at.is_(None))
    connection.execute(update(association).where(*mine).values(lease_until=until))


def end_association(connection: Connection, id: str, aborted: bool, now: datetime) -> None:
    """Record that an association was released, or aborted."""
    connection.execute(update(association).where(association.c.id == id).values(ended_at=now, aborted=int(aborted)))


_KNOWN = [getattr(instance.c, one.name) for one in fields(KnownInstance)]


def known_instance(connection: Connection, sop_instance_uid: str) -> KnownInstance | None:
    """Return the newest revision under this UID that counts, or None."""
    return known_instances(connection, [sop_instance_uid]).get(sop_instance_uid)


def known_instances(connection: Connection, sop_instance_uids: Sequence[str]) -> dict[str, KnownInstance]:
    """Return the newest revision that counts, by SOP Instance UID, for those that have one."""
    rows = connection.execute(
        select(instance.c.sop_instance_uid, *_KNOWN)
        .where(instance.c.sop_instance_uid.in_(sop_instance_uids), instance.c.state != "conflict")
        .order_by(instance.c.revision)
    )
    return {row[0]: KnownInstance(*row[1:]) for row in rows}


def known_at_all(connection: Connection, new: Sequence[ReceivedInstance]) -> set[str]:
    """Return the UIDs and spool paths among these that have a row, whatever its state."""
    uids = select(instance.c.sop_instance_uid).where(
        instance.c.sop_instance_uid.in_([row.sop_instance_uid for row in new])
    )
    paths = select(instance.c.path).where(instance.c.path.in_([row.path for row in new]))
    return set(connection.execute(uids).scalars()) | set(connection.execute(paths).scalars())


def last_revision(connection: Connection, sop_instance_uid: str) -> int:
    """Return the highest revision number under this UID, 0 when there is none."""
    highest = select(func.max(instance.c.revision)).where(instance.c.sop_instance_uid == sop_instance_uid)
    return int(connection.execute(highest).scalar() or 0)


def known_results(connection: Connection, sop_instance_uids: Sequence[str]) -> set[str]:
    """Return the UIDs among these of objects that this appliance made."""
    query = select(result.c.sop_instance_uid).where(result.c.sop_instance_uid.in_(sop_instance_uids))
    return set(connection.execute(query).scalars())


def paths_known(connection: Connection, among: Sequence[str] | None = None) -> set[str]:
    """Return the relative paths of the spool files that have a row, of all or among these."""
    query = select(instance.c.path).where(instance.c.file_removed == 0)
    if among is not None:
        query = query.where(instance.c.path.in_(among))
    return set(connection.execute(query).scalars())


def drop_row(connection: Connection, id: int) -> None:
    """Forget that a file could not be read: now it can."""
    connection.execute(delete(instance).where(instance.c.id == id))


def count_again(connection: Connection, id: int) -> None:
    """Count one more arrival of the same content."""
    connection.execute(update(instance).where(instance.c.id == id).values(times_received=instance.c.times_received + 1))


def add_instance(connection: Connection, new: ReceivedInstance, revision: int, state: str) -> None:
    """Add one row; the study's state is the caller's to move (`touch_study`)."""
    connection.execute(insert(instance), [_columns(new, revision, state)])


def add_first_instances(connection: Connection, new: Sequence[ReceivedInstance]) -> None:
    """Add rows under UIDs that have none."""
    if new:
        connection.execute(insert(instance), [_columns(row, 1, row.state) for row in new])


def _columns(new: ReceivedInstance, revision: int, state: str) -> dict[str, Any]:
    return {
        "sop_instance_uid": new.sop_instance_uid,
        "revision": revision,
        "study_instance_uid": new.study_instance_uid,
        "series_instance_uid": new.series_instance_uid,
        "sop_class_uid": new.sop_class_uid,
        "transfer_syntax_uid": new.transfer_syntax_uid,
        "path": new.path,
        "bytes": new.bytes,
        "header_digest": new.header_digest,
        "pixel_digest": new.pixel_digest,
        "patient_key": new.patient_key,
        "state": state,
        "geometry": new.geometry,
        "number": new.number,
        "received_at": new.received_at,
    }


def row_at(connection: Connection, path: str) -> tuple[int, str] | None:
    """Return (id, state) of the row that has this spool file, or None."""
    row = connection.execute(select(instance.c.id, instance.c.state).where(instance.c.path == path)).one_or_none()
    return (row.id, row.state) if row else None


def keep_file(connection: Connection, id: int, new: ReceivedInstance) -> bool:
    """Let a row have this file, and return whether retention had deleted the one it had; else that one is this one."""
    removed = connection.execute(select(instance.c.file_removed).where(instance.c.id == id)).scalar()
    connection.execute(
        update(instance)
        .where(instance.c.id == id)
        .values(path=new.path, bytes=new.bytes, transfer_syntax_uid=new.transfer_syntax_uid, file_removed=0)
    )
    return bool(removed)


def fill_anew(connection: Connection, id: int, new: ReceivedInstance, revision: int) -> None:
    """Let a forgotten row hold again what it held: the same content came."""
    again = {"file_removed": 0, "times_received": instance.c.times_received + 1}
    values = _columns(new, revision, new.state) | again
    connection.execute(update(instance).where(instance.c.id == id).values(**values))


def make_current(connection: Connection, id: int, revision: int) -> None:
    """Let an older header count again, as the newest revision."""
    connection.execute(update(instance).where(instance.c.id == id).values(state="current", revision=revision))


def replace_instance(connection: Connection, id: int) -> None:
    """Mark a revision as replaced by a newer header."""
    connection.execute(update(instance).where(instance.c.id == id).values(state="replaced"))

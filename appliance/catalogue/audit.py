"""The audit chain's table and queries. Dispatch alone seals; others only append events.

Order in the chain is the order of sealing, which need not be that of the events' numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Integer, LargeBinary, Table, delete, func, insert, select

from appliance.audit import BEGINNING, Flaw, Sealed, flaws, link, record_of
from appliance.catalogue import events
from appliance.catalogue.tables import event, metadata

audit_link = Table(
    "audit_link",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("event_seq", Integer, nullable=False, unique=True),
    Column("digest", LargeBinary(32), nullable=False),
)
LATE = 10_000  # numbers behind the newest sealed one among which an event may still appear
AT_ONCE = 1000
REMOVED = "records_removed"


def seal(connection: Connection, *, all_of_them: bool = False) -> int:
    """Append links for events that have none; returns how many. `all_of_them`: however long ago they were recorded."""
    number, before = head(connection)
    newest = connection.execute(select(func.max(audit_link.c.event_seq))).scalar() or 0
    query = (
        select(event)
        .join(audit_link, audit_link.c.event_seq == event.c.seq, isouter=True)
        .where(audit_link.c.event_seq.is_(None), event.c.seq > (0 if all_of_them else newest - LATE))
        .order_by(event.c.seq)
        .limit(AT_ONCE)
    )
    made = []
    for row in connection.execute(query).mappings():
        before, number = link(before, record_of(dict(row))), number + 1
        made.append({"number": number, "event_seq": row["seq"], "digest": before})
    if made:
        connection.execute(insert(audit_link), made)
    return len(made)


def head(connection: Connection) -> tuple[int, bytes]:
    """Return number and digest of the newest link."""
    query = select(audit_link.c.number, audit_link.c.digest).order_by(audit_link.c.number.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return (row.number, row.digest) if row else (0, BEGINNING)


def chain(connection: Connection, after: int = 0) -> Iterator[Sealed]:
    """Yield the links after a number with their events, in the chain's order."""
    query = (
        select(audit_link, event)
        .join(event, event.c.seq == audit_link.c.event_seq, isouter=True)
        .where(audit_link.c.number > after)
        .order_by(audit_link.c.number)
    )
    for row in connection.execute(query).mappings():
        found = None if row["seq"] is None else dict(row)
        yield Sealed(row["number"], row["event_seq"], row["digest"], found)


@dataclass(frozen=True)
class Verdict:
    """What a look at the whole chain found."""

    links: int
    unsealed: int  # events that dispatch has yet to seal
    head: str  # hexadecimal; note it elsewhere, and a later chain must hold it
    flaws: tuple[Flaw, ...]


def verify(connection: Connection, noted: str = "") -> Verdict:
    """Look at every link; `noted`: a head that was written down earlier and must be in the chain."""
    found: list[Flaw] = []
    start, before = _beginning(connection, found)
    found += flaws(chain(connection, start), before, start)
    number, digest = head(connection)
    total = int(connection.execute(select(func.count()).select_from(audit_link)).scalar_one())
    lost = (
        noted
        and not connection.execute(select(audit_link.c.number).where(audit_link.c.digest == bytes.fromhex(noted))).all()
    )
    if lost:
        found.append(Flaw(number, 0, f"the head that was noted, {noted[:16]}…, is not in it: the chain was made anew"))
    return Verdict(total, unsealed(connection), digest.hex(), tuple(found))


def behind(connection: Connection) -> int:
    """Return about how many events wait for dispatch, without looking at all of them."""
    recorded = connection.execute(select(func.max(event.c.seq))).scalar() or 0
    sealed = connection.execute(select(func.max(audit_link.c.event_seq))).scalar() or 0
    return max(0, recorded - sealed)


def unsealed(connection: Connection) -> int:
    """Return how many events have no link."""
    return int(
        connection.execute(
            select(func.count())
            .select_from(event.join(audit_link, audit_link.c.event_seq == event.c.seq, isouter=True))
            .where(audit_link.c.event_seq.is_(None))
        ).scalar_one()
    )


def _beginning(connection: Connection, found: list[Flaw]) -> tuple[int, bytes]:
    """Return the link that the chain begins after: none, or the last one that retention removed."""
    first = connection.execute(select(audit_link).order_by(audit_link.c.number).limit(1)).one_or_none()
    if first is None or first.number == 1:
        return 0, BEGINNING
    told = connection.execute(select(event.c.detail).where(event.c.kind == REMOVED)).scalars()
    if not any(one.get("until") == first.number and one.get("digest") == first.digest.hex() for one in told):
        found.append(Flaw(first.number, first.event_seq, "what stood before it is gone, and no removal was recorded"))
    return int(first.number), bytes(first.digest)


def remove(connection: Connection, before: datetime) -> int:
    """Delete the oldest events of the chain, recorded before a moment; their last link stays as its new beginning."""
    kept = select(func.min(audit_link.c.number)).join(event, event.c.seq == audit_link.c.event_seq)
    first_kept = connection.execute(kept.where(event.c.at >= before)).scalar()
    until = (first_kept or head(connection)[0] + 1) - 1
    gone = select(audit_link.c.event_seq).where(audit_link.c.number <= until)
    count = connection.execute(delete(event).where(event.c.seq.in_(gone))).rowcount
    if not count:
        return 0
    connection.execute(delete(audit_link).where(audit_link.c.number < until))
    last = connection.execute(select(audit_link.c.digest).where(audit_link.c.number == until)).scalar_one()
    events.record(connection, REMOVED, until=until, digest=last.hex(), count=count)
    return int(count)


def exported(connection: Connection, since: datetime | None = None) -> Iterator[dict[str, Any]]:
    """Yield number, digest and event of each link from a moment on."""
    for one in chain(connection):
        if one.event is not None and (since is None or one.event["at"] >= since):
            yield {"number": one.number, "digest": one.digest.hex(), **record_of(one.event)}

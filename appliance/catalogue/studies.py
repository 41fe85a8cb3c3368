"""Queries that let studies grow: their rows, those of their series, and who brought them.

A study is receiving until completeness says otherwise; an image that comes later opens it again. Counts in headers
and pauses between instances are kept here as they are seen; what they mean is decided in `appliance.completeness`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Text, cast, insert, or_, select, update

from appliance.catalogue.evidence import observe_pause
from appliance.catalogue.receiving import ReceivedInstance, upsert
from appliance.catalogue.tables import association, series, study, study_association

LEAST_PAUSE_S = {"between": 0.5, "inside": 5.0}  # shorter ones are the ordinary rhythm of sending
LONGEST_PAUSE_S = 60.0  # a longer one is no pause within a study


def grow(connection: Connection, new: Sequence[ReceivedInstance], *, corrected: bool = False) -> None:
    """Let instances of one study count: open it for receiving, or note that it grew. `new` is in order of arrival.

    A pause before instances that are not `corrected` versions of known ones says how their source pauses.
    """
    uid, first = new[0].study_instance_uid, new[0].received_at
    row = connection.execute(select(study).where(study.c.study_instance_uid == uid)).one_or_none()
    before = row.last_received_at if row else first
    last = max([before, *(one.received_at for one in new)])
    values: dict[str, Any] = {"last_received_at": last, "state": "receiving", **_expected(row, new)}
    if row is None:
        number = new[0].accession_number
        values |= {"study_instance_uid": uid, "accession_number": number, "first_received_at": first}
        connection.execute(insert(study).values(**values))
    else:
        if row.state == "complete":
            values |= {"first_received_at": first, "found_count": None, "found_at": None, "found_ahead": 0}
        connection.execute(update(study).where(study.c.study_instance_uid == uid).values(**values))
    linked = {""}
    for one in new:
        if not corrected:
            _observe(connection, one, (one.received_at - before).total_seconds())
        if one.association_id not in linked:
            link_association(connection, uid, one.association_id)
            linked.add(one.association_id)
        before = max(before, one.received_at)


def _expected(row: Any, new: Sequence[ReceivedInstance]) -> dict[str, int]:
    """Return the greatest and the smallest count of the study that its headers gave (0020,1208)."""
    counts = [one.study_expected for one in new if one.study_expected is not None]
    if row is not None and row.expected is not None:
        counts += [row.expected, row.expected_least]
    return {"expected": max(counts), "expected_least": min(counts)} if counts else {}


def _observe(connection: Connection, new: ReceivedInstance, pause_s: float) -> None:
    """Remember a pause before an image: inside its association, or since another of the source was released."""
    if new.state != "current" or not min(LEAST_PAUSE_S.values()) < pause_s <= LONGEST_PAUSE_S:
        return
    rows = connection.execute(
        select(association, study_association.c.study_instance_uid)
        .join(study_association, study_association.c.association_id == association.c.id, isouter=True)
        .where(
            or_(
                association.c.id == new.association_id,
                study_association.c.study_instance_uid == new.study_instance_uid,
            )
        )
    ).all()
    mine = next((row for row in rows if row.id == new.association_id), None)
    if mine is None:
        return
    kind = _kind_of_pause(mine, [row for row in rows if row.study_instance_uid == new.study_instance_uid])
    if kind and pause_s > LEAST_PAUSE_S[kind]:
        observe_pause(connection, mine.ae_title, kind, pause_s, new.received_at)


def _kind_of_pause(mine: Any, earlier: Sequence[Any]) -> str:
    """Return what kind of pause it was; none beside an open association, after an abort, or of two sources."""
    if any(row.id == mine.id for row in earlier):
        return "inside"
    if not earlier or any(row.ended_at is None for row in earlier):
        return ""
    last = max(earlier, key=lambda row: row.ended_at)
    return "between" if last.ae_title == mine.ae_title and not last.aborted else ""


def come_again(connection: Connection, again: ReceivedInstance) -> None:
    """Note that known content came again: a study that is being received is not quiet, and has a sender more."""
    uid = again.study_instance_uid
    row = connection.execute(
        select(study.c.last_received_at).where(study.c.study_instance_uid == uid, study.c.state == "receiving")
    ).one_or_none()
    if row is None or not again.association_id:
        return
    last = max(row.last_received_at, again.received_at)
    connection.execute(update(study).where(study.c.study_instance_uid == uid).values(last_received_at=last))
    link_association(connection, uid, again.association_id)


def grow_series(connection: Connection, new: Sequence[ReceivedInstance]) -> None:
    """Make sure the series of images of one study have rows: attributes of the first image, the greatest count."""
    by_series: dict[str, list[ReceivedInstance]] = {}
    for one in new:
        by_series.setdefault(one.series_instance_uid, []).append(one)
    for images in by_series.values():
        _touch_series(connection, images[0], [one.series_expected for one in images if one.series_expected])


def _touch_series(connection: Connection, first: ReceivedInstance, counts: Sequence[int]) -> None:
    key = {"study_instance_uid": first.study_instance_uid, "series_instance_uid": first.series_instance_uid}
    values = {**key, "modality": first.modality, "attributes": first.attributes}
    mine = [series.c[name] == value for name, value in key.items()]
    connection.execute(upsert(connection, series).values(**values).on_conflict_do_nothing())
    if first.attributes:
        blank = cast(series.c.attributes, Text) == "{}"
        connection.execute(update(series).where(*mine, blank).values(attributes=first.attributes))
    if counts:
        less = or_(series.c.expected.is_(None), series.c.expected < max(counts))
        connection.execute(update(series).where(*mine, less).values(expected=max(counts)))


def has_series(connection: Connection, study_uid: str, series_uid: str) -> bool:
    """Return whether the series has a row with its attributes; they go with a study that is forgotten."""
    mine = (series.c.study_instance_uid == study_uid, series.c.series_instance_uid == series_uid)
    return bool(connection.execute(select(series.c.attributes).where(*mine)).scalar())


def is_complete(connection: Connection, study_uid: str) -> bool:
    """Return whether the study is known and complete."""
    state = connection.execute(select(study.c.state).where(study.c.study_instance_uid == study_uid)).scalar()
    return state == "complete"


def link_association(connection: Connection, study_uid: str, association_id: str) -> None:
    """Note that an association brought instances of a study."""
    connection.execute(
        upsert(connection, study_association)
        .values(study_instance_uid=study_uid, association_id=association_id)
        .on_conflict_do_nothing()
    )

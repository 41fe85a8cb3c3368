"""Queries of completeness: what the catalogue knows of studies that are being received, and the mark that ends it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, and_, case, exists, func, insert, or_, select, true, union, update

from appliance.catalogue import events
from appliance.catalogue.announcements import COMPLETED, IN_PROGRESS
from appliance.catalogue.routing import geometry_from_row
from appliance.catalogue.tables import (
    announced,
    association,
    instance,
    job,
    outbox,
    procedure_step,
    result,
    series,
    source_pause,
    study,
    study_association,
)
from appliance.completeness import Announcements, AssociationFact, FoundCount, Pauses, SeriesFact, StudyFacts
from appliance.gaps import SeriesPlaces

NOT_RECEIVED = ("result", "unreadable", "forgotten")  # states of instances that no source's count speaks of
GONE = ("unreadable", "forgotten")
PAUSE_KEPT = timedelta(days=7)
RECEIVING = select(study.c.study_instance_uid).where(study.c.state == "receiving")


def receiving_studies(connection: Connection, now: datetime) -> dict[str, StudyFacts]:
    """Return the facts of every study that is being received, by Study Instance UID; gaps are not looked for."""
    rows = connection.execute(select(study).where(study.c.state == "receiving")).all()
    if not rows:
        return {}
    associations = _associations(connection)
    held = _held(connection)
    in_series = _series(connection)
    told = _announcements(connection)
    pauses = _pauses(connection, now)
    facts = {}
    for row in rows:
        uid = row.study_instance_uid
        source = associations[uid][-1].ae_title if associations[uid] else ""
        facts[uid] = StudyFacts(
            row.first_received_at,
            row.last_received_at,
            [AssociationFact(one.lease_until, one.ended_at, bool(one.aborted)) for one in associations[uid]],
            held=held.get(uid, 0),
            results=_results_sent(connection, uid) if row.found_count else 0,
            expected=row.expected,
            expected_varies=row.expected != row.expected_least,
            series=in_series[uid],
            announcements=told.get(uid, Announcements()),
            found=FoundCount(row.found_count, row.found_at, bool(row.found_ahead)) if row.found_count else None,
            pauses=pauses.get(source, Pauses()),
            counted_before=row.complete_reason == "counted",
            source=source,
        )
    return facts


def _associations(connection: Connection) -> dict[str, list[Any]]:
    rows = connection.execute(
        select(study_association.c.study_instance_uid, association)
        .join(association, study_association.c.association_id == association.c.id)
        .where(study_association.c.study_instance_uid.in_(RECEIVING))
        .order_by(association.c.opened_at)
    )
    found = defaultdict(list)
    for row in rows:
        found[row.study_instance_uid].append(row)
    return found


def _held(connection: Connection) -> dict[str, int]:
    """Return how many instances came of the studies of which somebody said how many there are."""
    rows = connection.execute(
        select(instance.c.study_instance_uid, func.count(instance.c.sop_instance_uid.distinct()))
        .where(
            instance.c.study_instance_uid.in_(
                RECEIVING.where(or_(study.c.expected.is_not(None), study.c.found_count.is_not(None)))
            ),
            instance.c.state.not_in(NOT_RECEIVED),
        )
        .group_by(instance.c.study_instance_uid)
    )
    return {uid: int(count) for uid, count in rows}


def held_of(connection: Connection, study_uid: str) -> int:
    """Return how many distinct instances of a study came, results of ours apart."""
    found = connection.execute(
        select(func.count(instance.c.sop_instance_uid.distinct())).where(
            instance.c.study_instance_uid == study_uid, instance.c.state.not_in(NOT_RECEIVED)
        )
    ).scalar()
    return int(found or 0)


def _series(connection: Connection) -> dict[str, list[SeriesFact]]:
    """Return how many images came of each series of the studies in which a series has a count."""
    counting = RECEIVING.where(
        exists().where(series.c.study_instance_uid == study.c.study_instance_uid, series.c.expected.is_not(None))
    )
    counts = (
        select(
            instance.c.study_instance_uid,
            instance.c.series_instance_uid,
            func.count(instance.c.sop_instance_uid.distinct()).label("held"),
        )
        .where(instance.c.study_instance_uid.in_(counting), instance.c.state == "current")
        .group_by(instance.c.study_instance_uid, instance.c.series_instance_uid)
        .subquery()
    )
    same = and_(
        series.c.study_instance_uid == counts.c.study_instance_uid,
        series.c.series_instance_uid == counts.c.series_instance_uid,
    )
    rows = connection.execute(select(counts.c.study_instance_uid, counts.c.held, series.c.expected).join(series, same))
    found = defaultdict(list)
    for uid, held, expected in rows:
        found[uid].append(SeriesFact(int(held), expected))
    return found


def _announced_of(study_uid: str | None = None) -> Select[Any]:
    """Return the query of (study, instance) pairs that notifications and completed steps announce."""
    wanted: Any = RECEIVING if study_uid is None else [study_uid]
    by_notification = select(announced.c.study_instance_uid, announced.c.sop_instance_uid).where(
        announced.c.study_instance_uid.in_(wanted)
    )
    by_step = (
        select(procedure_step.c.study_instance_uid, announced.c.sop_instance_uid)
        .join(announced, announced.c.announced_by == procedure_step.c.sop_instance_uid)
        .where(
            announced.c.study_instance_uid == "",
            procedure_step.c.state == COMPLETED,
            procedure_step.c.study_instance_uid.in_(wanted),
        )
    )
    told = union(by_notification, by_step).subquery()
    return select(told.c.study_instance_uid, told.c.sop_instance_uid)


def _announcements(connection: Connection) -> dict[str, Announcements]:
    running = connection.execute(
        select(procedure_step.c.study_instance_uid, func.count())
        .where(procedure_step.c.study_instance_uid.in_(RECEIVING), procedure_step.c.state == IN_PROGRESS)
        .group_by(procedure_step.c.study_instance_uid)
    ).all()
    in_progress = {uid: int(count) for uid, count in running}
    told = _announced_of().subquery()
    here = exists().where(instance.c.sop_instance_uid == told.c.sop_instance_uid, instance.c.state.not_in(GONE))
    counts = connection.execute(
        select(told.c.study_instance_uid, func.count(), func.sum(case((here, 0), else_=1))).group_by(
            told.c.study_instance_uid
        )
    ).all()
    found = {uid: Announcements(in_progress=count) for uid, count in in_progress.items()}
    for uid, count, missing in counts:
        unannounced = 0 if missing else _unannounced(connection, uid)
        found[uid] = Announcements(int(count), int(missing), unannounced, in_progress.get(uid, 0))
    return found


def _unannounced(connection: Connection, study_uid: str) -> int:
    told = _announced_of(study_uid).subquery()
    count = connection.execute(
        select(func.count()).where(
            instance.c.study_instance_uid == study_uid,
            instance.c.state == "current",
            instance.c.sop_instance_uid.not_in(select(told.c.sop_instance_uid)),
        )
    ).scalar()
    return int(count or 0)


def _results_sent(connection: Connection, study_uid: str) -> int:
    """Return how many results of ours for this study lie in a PACS."""
    sent = (
        select(func.count(result.c.sop_instance_uid.distinct()))
        .join(job, job.c.id == result.c.job_id)
        .join(outbox, outbox.c.sop_instance_uid == result.c.sop_instance_uid)
        .where(job.c.study_instance_uid == study_uid, outbox.c.state.in_(("delivered", "committed")))
    )
    return int(connection.execute(sent).scalar() or 0)


# --- counts of a PACS ---


def record_found(connection: Connection, study_uid: str, count: int, held: int, asked_at: datetime) -> None:
    """Write the count that a PACS gave; it was ahead of us when it gave this number while we held fewer."""
    ahead = and_(study.c.found_count == count, study.c.found_ahead == 1) if count <= held else true()
    connection.execute(
        update(study)
        .where(study.c.study_instance_uid == study_uid, study.c.state == "receiving")
        .values(
            found_count=count,
            found_at=asked_at,
            found_ahead=case((ahead, 1), else_=0),
        )
    )


# --- pauses of a source ---


def _pauses(connection: Connection, now: datetime) -> dict[str, Pauses]:
    rows = connection.execute(select(source_pause).where(source_pause.c.observed_at > now - PAUSE_KEPT))
    seen: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        seen[row.ae_title][row.kind] = row.pause_s
    return {title: Pauses(kinds.get("between", 0.0), kinds.get("inside", 0.0)) for title, kinds in seen.items()}


def observe_pause(connection: Connection, ae_title: str, kind: str, pause_s: float, now: datetime) -> None:
    """Remember a pause of a source: the longest of a week. One of half its length keeps a long one remembered."""
    key = (source_pause.c.ae_title == ae_title, source_pause.c.kind == kind)
    known = connection.execute(select(source_pause).where(*key)).one_or_none()
    if known is None:
        connection.execute(insert(source_pause).values(ae_title=ae_title, kind=kind, pause_s=pause_s, observed_at=now))
    elif pause_s >= known.pause_s or known.observed_at <= now - PAUSE_KEPT:
        connection.execute(update(source_pause).where(*key).values(pause_s=pause_s, observed_at=now))
    elif pause_s >= known.pause_s / 2:
        connection.execute(update(source_pause).where(*key).values(observed_at=now))


# --- gaps ---


def places(connection: Connection, study_uid: str) -> list[SeriesPlaces]:
    """Return the instance numbers and slice places of every series of a study: its current images."""
    rows = connection.execute(
        select(instance.c.series_instance_uid, instance.c.number, instance.c.geometry).where(
            instance.c.study_instance_uid == study_uid, instance.c.state == "current"
        )
    ).all()
    by_series = defaultdict(list)
    for row in rows:
        by_series[row.series_instance_uid].append(row)
    return [_places(rows) for rows in by_series.values()]


def _places(rows: Sequence[Any]) -> SeriesPlaces:
    return SeriesPlaces(
        numbers=[row.number for row in rows if row.number is not None],
        planes=[geometry_from_row(plane) for row in rows for plane in row.geometry if plane["frame"] is None],
    )


# --- the mark ---


def complete_study(
    connection: Connection,
    study_uid: str,
    reason: str,
    last_received_at: datetime,
    now: datetime,
    evidence: str = "",
) -> bool:
    """Mark a study complete; False when it grew since the facts were read."""
    done = connection.execute(
        update(study)
        .where(
            study.c.study_instance_uid == study_uid,
            study.c.state == "receiving",
            study.c.last_received_at == last_received_at,
        )
        .values(state="complete", complete_at=now, complete_reason=reason, complete_evidence=evidence, routed=0)
    )
    if done.rowcount:
        events.record(connection, "study_complete", study=study_uid, reason=reason, evidence=evidence)
    return bool(done.rowcount)

"""Queries of what others announce: procedure steps (PS3.4 Annex F) and availability of instances (PS3.4 Annex R).

Writing the same announcement twice changes nothing; a step that has ended stays ended (PS3.4 Annex F.7.2.2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from appliance.catalogue.tables import announced, procedure_step

IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"
ENDED = (COMPLETED, DISCONTINUED)


@dataclass(frozen=True)
class ProcedureStep:
    """What one N-CREATE or N-SET of a Modality Performed Procedure Step says."""

    sop_instance_uid: str
    study_instance_uids: tuple[str, ...]  # none in an N-SET
    state: str  # "" when it says nothing of it
    instances: tuple[str, ...] | None  # SOP Instance UIDs; None when it says nothing of series


@dataclass(frozen=True)
class Availability:
    """What one Instance Availability Notification says of a study."""

    sop_instance_uid: str
    study_instance_uid: str
    available: tuple[str, ...]  # SOP Instance UIDs
    unavailable: tuple[str, ...]


def apply_step(connection: Connection, step: ProcedureStep, at: datetime) -> None:
    """Write what a procedure step says; messages may come in any order, and more than once."""
    rows = connection.execute(select(procedure_step).where(procedure_step.c.sop_instance_uid == step.sop_instance_uid))
    known = {row.study_instance_uid: row.state for row in rows}
    ended = next((state for state in known.values() if state in ENDED), None)
    state = ended or step.state or next(iter(known.values()), IN_PROGRESS)
    if step.instances is not None and (ended is None or step.state == ended):
        _announce(connection, step.sop_instance_uid, "", step.instances, at)
    studies = set(step.study_instance_uids) | (known.keys() - {""}) or {""}
    connection.execute(delete(procedure_step).where(procedure_step.c.sop_instance_uid == step.sop_instance_uid))
    connection.execute(
        insert(procedure_step),
        [
            {"sop_instance_uid": step.sop_instance_uid, "study_instance_uid": study, "state": state, "at": at}
            for study in sorted(studies)
        ],
    )


def apply_availability(connection: Connection, told: Availability, at: datetime) -> None:
    """Write what a notification says; instances that became unavailable are no longer announced by anybody."""
    if told.unavailable:
        for part in _parts(told.unavailable):
            connection.execute(delete(announced).where(announced.c.sop_instance_uid.in_(part)))
    _announce(connection, told.sop_instance_uid, told.study_instance_uid, told.available, at)


def _announce(connection: Connection, by: str, study: str, instances: Sequence[str], at: datetime) -> None:
    """Let these be the instances that one step or notification announces."""
    mine = (announced.c.announced_by == by, announced.c.study_instance_uid == study)
    connection.execute(delete(announced).where(*mine))
    rows = [
        {"announced_by": by, "study_instance_uid": study, "sop_instance_uid": uid, "at": at}
        for uid in sorted(set(instances))
    ]
    if rows:
        connection.execute(insert(announced), rows)


def _parts(uids: Sequence[str], size: int = 500) -> list[Sequence[str]]:
    return [uids[n : n + size] for n in range(0, len(uids), size)]


def forget(connection: Connection, before: datetime) -> None:
    """Delete announcements and steps that nobody spoke of since a moment."""
    connection.execute(delete(announced).where(announced.c.at < before))
    connection.execute(delete(procedure_step).where(procedure_step.c.at < before))


def end_stale_steps(connection: Connection, before: datetime) -> None:
    """Discontinue the steps whose modality said nothing since a moment: they hold no study back."""
    connection.execute(
        update(procedure_step)
        .where(procedure_step.c.state == IN_PROGRESS, procedure_step.c.at < before)
        .values(state=DISCONTINUED)
    )

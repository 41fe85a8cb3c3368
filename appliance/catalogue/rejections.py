"""Queries of rejection notes: what the source took back, and what depended on it.

A rejected instance stays in the spool and is read by no model any more, whether the note came before it or after.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, select, update

from appliance.catalogue import events
from appliance.catalogue.outbox import withdraw
from appliance.catalogue.receiving import ReceivedInstance, upsert
from appliance.catalogue.tables import job, job_input, rejection, study

MEANINGS = {
    "113001": "for quality reasons",
    "113037": "for patient safety reasons",
    "113038": "for an incorrect modality worklist entry",
    "113039": "because their retention ended",
}
LIVE = ("queued", "running", "delivering", "completed")


def rejected(connection: Connection, study_uid: str) -> set[str]:
    """Return the SOP Instance UIDs of a study that its source rejected."""
    rows = connection.execute(
        select(rejection.c.sop_instance_uid).where(rejection.c.study_instance_uid == study_uid)
    ).scalars()
    return set(rows)


def keep_note(connection: Connection, note: ReceivedInstance, now: datetime) -> None:
    """Record a note, end what was made of the rejected instances, and let their studies be routed anew."""
    by_study: dict[str, list[str]] = {}
    for study_uid, uid in note.rejects:
        by_study.setdefault(study_uid, []).append(uid)
    for study_uid, uids in by_study.items():
        rows = [
            {
                "sop_instance_uid": uid,
                "note_uid": note.sop_instance_uid,
                "study_instance_uid": study_uid,
                "code": note.rejection,
                "at": now,
            }
            for uid in uids
        ]
        connection.execute(upsert(connection, rejection).values(rows).on_conflict_do_nothing())
        reason = f"{len(uids)} images were rejected at the source {MEANINGS[note.rejection]} ({note.rejection}, DCM)"
        events.record(connection, "instances_rejected", study=study_uid, count=len(uids), code=note.rejection)
        _end_dependents(connection, study_uid, uids, reason, now)
        connection.execute(update(study).where(study.c.study_instance_uid == study_uid).values(routed=0))


def _end_dependents(connection: Connection, study_uid: str, uids: Sequence[str], reason: str, now: datetime) -> None:
    """Supersede the jobs that read one of these instances; results that wait are not sent, delivered ones marked."""
    reads = select(job_input.c.job_id).where(job_input.c.sop_instance_uid.in_(uids))
    ended = connection.execute(
        update(job)
        .where(job.c.study_instance_uid == study_uid, job.c.id.in_(reads), job.c.state.in_(LIVE))
        .values(state="superseded", reason=reason, finished_at=now, token=job.c.token + 1, lease_until=None)
        .returning(job.c.id)
    )
    for id in ended.scalars().all():
        waiting = withdraw(connection, id, reason)
        events.record(connection, "job_superseded", study=study_uid, job=id, reason=reason, not_sent=waiting)

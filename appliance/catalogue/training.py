"""Queries of the training set: cases that are kept, of whom nothing is to be learned, and how many there are.

A case counts while it is not withdrawn. A withdrawn row stays, without its file: it says what was once learned from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from appliance.catalogue import events
from appliance.catalogue.receiving import upsert
from appliance.catalogue.training_tables import opt_out, training_case

KNOWN = "this label is kept already"
OLDER = "a newer label of these images is kept"
REPLACED = "replaced by a newer label of the same images"
OPTED_OUT = "the patient opted out"
EXPIRED = "kept as long as the settings say"


@dataclass(frozen=True)
class KeptCase:
    """One labelled volume, its file already durable."""

    id: str
    package: str
    study_instance_uid: str
    series_instance_uid: str
    region: str
    patient: str
    scanner: str
    source: str  # correction | import
    label_uid: str
    author: str
    labelled_at: datetime
    kept_at: datetime
    path: str  # relative to the folder of cases
    digest: str
    held_back: int


_COLUMNS = [training_case.c[one.name] for one in fields(KeptCase)]
_LIVE = training_case.c.withdrawn_at.is_(None)


def keep(connection: Connection, new: Sequence[KeptCase], now: datetime) -> str:
    """Keep the cases of one label, in place of older ones of the same images; returns why not, if so.

    `new` are of one series, package and patient.
    """
    first = new[0]
    if is_opted_out(connection, first.patient):
        return OPTED_OUT
    held = select(training_case.c.digest).where(training_case.c.id.in_([one.id for one in new]), _LIVE)
    if sorted(connection.execute(held).scalars()) == sorted(one.digest for one in new):
        return KNOWN
    same = (training_case.c.series_instance_uid == first.series_instance_uid, training_case.c.package == first.package)
    others = (*same, _LIVE, training_case.c.label_uid != first.label_uid)
    newest = connection.execute(select(func.max(training_case.c.labelled_at)).where(*others)).scalar()
    if newest is not None and newest > first.labelled_at:
        return OLDER
    _withdraw(connection, others, REPLACED, now)
    for one in new:
        values = asdict(one) | {"withdrawn_at": None, "reason": ""}
        row = upsert(connection, training_case).values(values)
        connection.execute(row.on_conflict_do_update(index_elements=["id"], set_=values))
    return ""


def _withdraw(connection: Connection, where: Sequence[Any], reason: str, now: datetime) -> int:
    """Let cases count no more; their files are the caller's or the next sweep's."""
    rows = connection.execute(
        update(training_case)
        .where(_LIVE, *where)
        .values(withdrawn_at=now, reason=reason)
        .returning(training_case.c.study_instance_uid, training_case.c.package)
    ).all()
    for row in rows:
        events.record(connection, "case_withdrawn", study=row.study_instance_uid, package=row.package, reason=reason)
    return len(rows)


def live(connection: Connection, package: str, kept_since: datetime) -> list[KeptCase]:
    """Return the cases of a package that count: not withdrawn, nor past their time, nor of a patient who opted out."""
    rows = connection.execute(
        select(*_COLUMNS)
        .where(training_case.c.package == package, _LIVE, training_case.c.kept_at >= kept_since)
        .where(training_case.c.patient.not_in(select(opt_out.c.patient)))
        .order_by(training_case.c.id)
    )
    return [KeptCase(*row) for row in rows]


def live_paths(connection: Connection) -> set[str]:
    """Return the files of all cases that count."""
    return set(connection.execute(select(training_case.c.path).where(_LIVE)).scalars())


def withdrawn_paths(connection: Connection, patient: str) -> list[str]:
    """Return the files that a patient's withdrawn cases had."""
    query = select(training_case.c.path).where(training_case.c.patient == patient, ~_LIVE)
    return list(connection.execute(query).scalars())


def forget_study(connection: Connection, study: str, reason: str, now: datetime) -> int:
    """Withdraw the cases of a study; returns how many."""
    return _withdraw(connection, (training_case.c.study_instance_uid == study,), reason, now)


def paths_of_study(connection: Connection, study: str) -> list[str]:
    """Return the files that the withdrawn cases of a study had."""
    query = select(training_case.c.path).where(training_case.c.study_instance_uid == study, ~_LIVE)
    return list(connection.execute(query).scalars())


def expire(connection: Connection, before: datetime, now: datetime) -> int:
    """Withdraw the cases that were kept before a moment; returns how many."""
    return _withdraw(connection, (training_case.c.kept_at < before,), EXPIRED, now)


def opt_patient_out(connection: Connection, patient: str, reason: str, now: datetime) -> int:
    """Learn nothing of a patient from now on; returns how many cases were withdrawn."""
    row = upsert(connection, opt_out).values(patient=patient, at=now, reason=reason)
    connection.execute(row.on_conflict_do_nothing())
    events.record(connection, "patient_opted_out", patient=patient, reason=reason)
    return _withdraw(connection, (training_case.c.patient == patient,), OPTED_OUT, now)


def opt_patient_in(connection: Connection, patient: str, reason: str) -> bool:
    """Let labels of a patient be kept again; what was withdrawn stays so. False if nobody had opted out."""
    done = connection.execute(delete(opt_out).where(opt_out.c.patient == patient)).rowcount
    if done:
        events.record(connection, "patient_opted_in", patient=patient, reason=reason)
    return bool(done)


def is_opted_out(connection: Connection, patient: str) -> bool:
    """Return whether nothing is to be learned of a patient."""
    return connection.execute(select(opt_out.c.patient).where(opt_out.c.patient == patient)).first() is not None


def opted_out_count(connection: Connection) -> int:
    """Return how many patients opted out."""
    return int(connection.execute(select(func.count()).select_from(opt_out)).scalar() or 0)


def counts(
    connection: Connection, kept_since: datetime, new_since: Mapping[str, datetime | None]
) -> list[dict[str, Any]]:
    """Return how many cases and patients there are by package, scanner and source of the label.

    `new_since`: package → when a round was last given something learned from its cases; all are new without it.
    """
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for row in connection.execute(select(training_case).where(_LIVE, training_case.c.kept_at >= kept_since)):
        groups.setdefault((row.package, row.scanner, row.source), []).append(row)
    found = []
    for (package, scanner, source), rows in sorted(groups.items()):
        learned = [row.kept_at for row in rows if not row.held_back]
        since = new_since.get(package)
        counted = {
            "cases": len(rows),
            "patients": len({row.patient for row in rows}),
            "for_training": len(learned),
            "held_back": len(rows) - len(learned),
            "new": sum(since is None or at > since for at in learned),
        }
        found.append({"package": package, "scanner": scanner, "source": source, **counted})
    return found


def withdrawn_counts(connection: Connection) -> dict[str, dict[str, int]]:
    """Return how many cases of each package were withdrawn, by reason."""
    groups = (training_case.c.package, training_case.c.reason)
    rows = connection.execute(select(*groups, func.count()).where(~_LIVE).group_by(*groups))
    found: dict[str, dict[str, int]] = {}
    for package, reason, number in rows:
        found.setdefault(package, {})[reason] = int(number)
    return found

"""Federated candidates on trial at this site: one row each, from arrival to its end. Table and queries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Connection, Row, String, Table, Text, func, insert, select, update

from appliance.catalogue import events
from appliance.catalogue.tables import Moment, job, metadata, outbox
from appliance.catalogue.training_tables import correction

trial = Table(
    "trial",  # of a version that came from the coordinator
    metadata,
    Column("sha256", String(64), primary_key=True),  # of the .zip that came
    Column("package", String(64), nullable=False, server_default=""),
    Column("version", String(32), nullable=False, server_default=""),
    # refused · unjudged · worse → ended; shadow → ready → promoted → fell_back; retired
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("scores", JSON, nullable=False),  # of models.hold_out, by structure and scanner
    Column("arrived_at", Moment, nullable=False),
    Column("state_at", Moment, nullable=False),
)
OPEN = ("shadow", "ready", "unjudged")


def keep(connection: Connection, values: dict[str, Any], now: datetime) -> None:
    """Record what came of a candidate's arrival."""
    connection.execute(insert(trial).values(**values, arrived_at=now, state_at=now))
    _tell(connection, values["package"], values["version"], values["state"], values["reason"])


def known(connection: Connection, sha256: str) -> bool:
    """Tell whether a .zip was looked at before."""
    return connection.execute(select(trial.c.sha256).where(trial.c.sha256 == sha256)).first() is not None


def of_package(connection: Connection, package: str = "") -> list[Row[Any]]:
    """Return the trials of a package, or all, the newest first."""
    query = select(trial).order_by(trial.c.arrived_at.desc())
    return list(connection.execute(query.where(trial.c.package == package) if package else query).all())


def in_states(connection: Connection, states: Sequence[str]) -> list[Row[Any]]:
    """Return the trials in these states, the oldest first."""
    return list(connection.execute(select(trial).where(trial.c.state.in_(states)).order_by(trial.c.arrived_at)).all())


def change(connection: Connection, row: Row[Any], state: str, reason: str, now: datetime) -> None:
    """Change the state of a trial."""
    if (row.state, row.reason) == (state, reason):
        return
    at = now if state != row.state else row.state_at
    connection.execute(
        update(trial).where(trial.c.sha256 == row.sha256).values(state=state, reason=reason, state_at=at)
    )
    if state != row.state:
        _tell(connection, row.package, row.version, state, reason)


def _tell(connection: Connection, package: str, version: str, state: str, reason: str) -> None:
    events.record(connection, f"trial_{state}", package=package, version=version, reason=reason)


def sent_and_corrected(connection: Connection, package: str, version: str) -> tuple[int, int]:
    """Return how many jobs of a version have results at a destination, and how many of these were corrected."""
    sent = (
        select(job.c.id)
        .join(outbox, outbox.c.job_id == job.c.id)
        .where(job.c.package == package, job.c.package_version == version)
        .where(outbox.c.state.in_(("delivered", "committed")))
        .distinct()
    )
    corrected = select(func.count(func.distinct(correction.c.job_id))).where(
        correction.c.state == "kept", correction.c.job_id.in_(sent)
    )
    count = connection.execute(select(func.count()).select_from(sent.subquery())).scalar()
    return int(count or 0), int(connection.execute(corrected).scalar() or 0)


def measured(connection: Connection, package: str, version: str, most: int = 200) -> list[tuple[str, float]]:
    """Return (finding and measurement, value) of a version's latest jobs, those in shadow left out."""
    query = (
        select(job.c.findings)
        .where(job.c.package == package, job.c.package_version == version, job.c.shadow == 0)
        .where(job.c.finished_at.is_not(None))
        .order_by(job.c.finished_at.desc())
        .limit(most)
    )
    return [
        (f"{finding['name']} {one['name']}", float(one["value"]))
        for findings in connection.execute(query).scalars()
        for finding in findings
        for one in finding["measurements"]
    ]

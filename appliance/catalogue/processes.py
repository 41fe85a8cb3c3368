"""Queries of processes: who runs, and whether it still beats."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from appliance.catalogue.tables import process

BEAT_S = 3.0
HEALTHY_S = 15.0
FORGET_S = 3600.0  # an indexer that did not beat for so long holds nothing back any more


def beat(
    connection: Connection,
    name: str,
    now: datetime,
    detail: dict[str, Any] | None = None,
    pid: int | None = None,
) -> None:
    """Record that a process of this host is alive."""
    host = socket.gethostname()
    values = {"pid": pid or os.getpid(), "beat_at": now, "detail": detail or {}}
    done = connection.execute(update(process).where(process.c.host == host, process.c.name == name).values(**values))
    if not done.rowcount:
        connection.execute(insert(process).values(host=host, name=name, **values))


def gone(connection: Connection, name: str) -> None:
    """Forget a process of this host that ended in order."""
    host = socket.gethostname()
    connection.execute(delete(process).where(process.c.host == host, process.c.name == name))


def listing(connection: Connection, now: datetime) -> list[dict[str, Any]]:
    """Return name, pid, host, health and detail of every process."""
    rows = connection.execute(select(process).order_by(process.c.name)).all()
    return [
        {
            "name": row.name,
            "pid": row.pid,
            "host": row.host,
            "healthy": now - row.beat_at < timedelta(seconds=HEALTHY_S) and _alive(row.host, row.pid),
            "detail": row.detail,
        }
        for row in rows
    ]


def behind_s(connection: Connection, now: datetime) -> float:
    """Return how far the slowest receiver's rows are behind what it acknowledged, in seconds.

    An indexer that stopped beating is behind by the time since: its studies wait for it, for an hour at most.
    """
    rows = connection.execute(
        select(process.c.beat_at, process.c.detail).where(
            process.c.name.startswith("receiver"), process.c.beat_at > now - timedelta(seconds=FORGET_S)
        )
    ).all()
    longest = 0.0
    for row in rows:
        told = row.detail.get("behind_s")
        if isinstance(told, int | float):
            late = (now - row.beat_at).total_seconds() - 2 * BEAT_S
            longest = max(longest, float(told) + max(0.0, late))
    return longest


def _alive(host: str, pid: int) -> bool:
    if host != socket.gethostname():
        return True
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False

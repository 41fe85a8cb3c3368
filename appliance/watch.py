"""Gathers the facts that alarms are decided on, for whoever tells of them: console, alerts and `curie status`.

What is slow to find out is found by dispatch alone, and stands in its heartbeat: a page never waits for a collector or
counts a week of studies, and a host without the certificates raises no alarm for them. It must never change anything.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from appliance.alarms import Alarm, Facts, alarms, needed
from appliance.catalogue import Catalogue, events, flow, gauges, processes
from appliance.catalogue.connection import now
from appliance.doctor import check_kit, check_tls
from appliance.metrics import ANSWERS_S, promises
from appliance.neighbours import check_collector
from appliance.objective import Answered
from appliance.settings import Settings

CHECK_S = 3600.0
DAY = timedelta(days=1)
GIB = 1024**3


def alarms_now(settings: Settings, connection: Connection, at: datetime) -> list[Alarm]:
    """Return what calls for a person."""
    return alarms(facts(settings, connection, at), at)


def facts(settings: Settings, connection: Connection, at: datetime) -> Facts:
    """Return how things are: by catalogue, disk, and what dispatch told last."""
    running = processes.listing(connection, at)
    told = [one["detail"] for one in running if one["name"] == "dispatch" and one["healthy"]]
    results = gauges.results_waiting(connection)
    return Facts(
        processes=running,
        needed=needed(settings.broker.url),
        free_gb=_free_gb(settings),
        reserve_gb=settings.spool.reserve_gb,
        standing=flow.standing(connection, clinical=True),
        waiting={one.name: (one.count, one.oldest) for one in results if one.state == "waiting"},
        rejected=gauges.rejected(connection, at - DAY),
        failed=gauges.failed(connection, at - DAY),
        conflicting=events.count_since(connection, "instance_conflicted", at - DAY),
        fell_back=tuple(_version(one) for one in events.details_since(connection, "trial_fell_back", at - DAY)),
        untold=_earliest(detail.get("untold", {}) for detail in told),
        answers=tuple({one["route"]: Answered(**one) for detail in told for one in detail.get("answers", ())}.values()),
        checks=tuple({one["name"]: one for detail in told for one in detail.get("checks", ())}.values()),
    )


def _free_gb(settings: Settings) -> float | None:
    try:
        return shutil.disk_usage(settings.data_dir).free / GIB
    except OSError:
        return None


def _earliest(told: Iterable[Mapping[str, str]]) -> dict[str, datetime]:
    """Return each way with the moment since when the first dispatch could not tell by it."""
    found: dict[str, datetime] = {}
    for way, since in ((way, datetime.fromisoformat(at)) for one in told for way, at in one.items()):
        found[way] = min(since, found.get(way, since))
    return found


def _version(detail: Mapping[str, Any]) -> str:
    return f"{detail['package']}@{detail['version']}"


class Watch:
    """What is slow to find out: certificates and the collector of audit messages hourly, promises every 5 minutes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._checks: list[dict[str, str]] = []
        self._answers: list[dict[str, Any]] = []
        self.untold: dict[str, str] = {}  # way → since when alarms wait there, as whoever tells them found
        self._checked_at = self._answered_at = -math.inf

    def look(self, catalogue: Catalogue) -> None:
        """Look at whatever is due."""
        if time.monotonic() - self._checked_at > CHECK_S:
            self._checked_at = time.monotonic()
            looks = (check_tls, check_kit, check_collector)
            wrong = [one for check in looks for one in check(self.settings) if not one.ok]
            self._checks = [{"name": one.name, "text": one.text, "remedy": one.remedy} for one in wrong]
        promised = any(one.objective_s is not None for one in self.settings.routes)
        if promised and time.monotonic() - self._answered_at > ANSWERS_S:
            self._answered_at = time.monotonic()
            with catalogue.read() as connection:
                self._answers = [asdict(one) for one in promises(self.settings, connection, now())]

    def told(self) -> dict[str, Any]:
        """Return what was found last, for the heartbeat."""
        return {"checks": self._checks, "answers": self._answers, "untold": self.untold}

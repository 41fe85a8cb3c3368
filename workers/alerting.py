"""Tells people: alarms go to a webhook and by e-mail when they come and when they go. No patient is in them.

It must never hold up clinical work: it runs in a thread of its own, and what could not be told is told later.
"""

from __future__ import annotations

import json
import shutil
import smtplib
import threading
import time
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from appliance.alarms import Change, Facts, alarms, change
from appliance.catalogue import Catalogue, events, gauges, processes
from appliance.catalogue.connection import now
from appliance.doctor import check_collector, check_kit, check_tls
from appliance.log import logger
from appliance.metrics import ANSWERS_S, promises
from appliance.objective import Answered
from appliance.process import keep_stepping
from appliance.settings import Settings

LOOK_S = 30.0
CHECK_S = 3600.0
ANSWER_S = 15.0
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
GIB = 1024**3


def start(settings: Settings, catalogue: Catalogue, stop: threading.Event) -> None:
    """Look for alarms in a thread of its own until told to stop."""
    alerting = Alerting(settings, catalogue)
    threading.Thread(target=keep_stepping, args=(alerting.step, stop, LOOK_S), daemon=True).start()


class Alerting:
    """Knows what was told, and tells what is new."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings, self.catalogue = settings, catalogue
        self.ways = ways(settings)
        self.unsent: dict[str, list[Change]] = {name: [] for name in self.ways}
        self._checked_at, self._checks = 0.0, dict[str, str]()
        self._answered_at, self._answers = 0.0, tuple[Answered, ...]()
        with catalogue.read() as connection:
            self.told = events.open_alarms(connection)

    def step(self) -> None:
        """Look once; record and send what came and what went."""
        found = alarms(self._facts())
        new = change(self.told, found, now())
        if new is not None:
            self._record(new)
            self.told = sorted(found)
            for waiting in self.unsent.values():
                waiting.append(new)
        for name, send in self.ways.items():
            self._send(name, send)

    def _record(self, new: Change) -> None:
        with self.catalogue.write() as connection:
            for name, text in new.raised.items():
                events.record(connection, "alarm_raised", name=name, text=text)
            for name in new.cleared:
                events.record(connection, "alarm_cleared", name=name)
        logger().warning("alarms", raised=sorted(new.raised), cleared=list(new.cleared))

    def _send(self, name: str, send: Callable[[Change], None]) -> None:
        waiting = self.unsent[name]
        while waiting:
            try:
                send(waiting[0])
            except (OSError, smtplib.SMTPException, ValueError) as error:
                logger().error("alarm_not_sent", way=name, cause=type(error).__name__, waiting=len(waiting))
                return
            waiting.pop(0)

    def _facts(self) -> Facts:
        at = now()
        if time.monotonic() - self._checked_at > CHECK_S or not self._checked_at:
            self._checked_at = time.monotonic()
            looks = (check_tls, check_kit, check_collector)
            wrong = [one for look in looks for one in look(self.settings) if not one.ok]
            self._checks = {one.name: f"{one.text}. {one.remedy}" for one in wrong}
        if time.monotonic() - self._answered_at > ANSWERS_S or not self._answered_at:
            self._answered_at = time.monotonic()
            with self.catalogue.read() as connection:
                self._answers = tuple(promises(self.settings, connection, at))
        with self.catalogue.read() as connection:
            queued = [one.oldest for one in gauges.jobs_waiting(connection) if one.state == "queued"]
            results = gauges.results_waiting(connection)
            return Facts(
                processes.listing(connection, at),
                shutil.disk_usage(self.settings.data_dir).free / GIB,
                self.settings.spool.reserve_gb,
                max(((at - one).total_seconds() for one in queued), default=0.0),
                {one.name: (at - one.oldest).total_seconds() for one in results if one.state == "waiting"},
                {one.name: one.count for one in results if one.state == "rejected"},
                events.count_since(connection, "job_failed", at - HOUR),
                tuple(
                    f"{one['package']}@{one['version']}"
                    for one in events.details_since(connection, "trial_fell_back", at - DAY)
                ),
                self._answers,
                self._checks,
            )


def ways(settings: Settings) -> dict[str, Callable[[Change], None]]:
    """Return how alarms are told, by name."""
    own, name = settings.alerts, settings.appliance.name
    found: dict[str, Callable[[Change], None]] = {}
    if own.webhook:
        found["webhook"] = lambda new: post(own.webhook, told(new, name))
    if own.smtp:
        found["smtp"] = lambda new: mail(own.smtp, told(new, name))
    return found


def told(new: Change, appliance: str) -> dict[str, Any]:
    """Return what is said of a change."""
    raised = [{"name": name, "text": text} for name, text in sorted(new.raised.items())]
    return {"appliance": appliance, "at": new.at.isoformat(), "raised": raised, "cleared": list(new.cleared)}


def post(url: str, content: dict[str, Any]) -> None:
    """POST JSON. Raises OSError where it is not taken."""
    asked = urllib.request.Request(
        url, json.dumps(content).encode(), {"Content-Type": "application/json", "User-Agent": "petite-curie"}
    )
    with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:
        answer.read(1)


def mail(url: str, content: dict[str, Any]) -> None:
    """Send a message over smtp:// (STARTTLS where it is offered) or smtps://. Raises SMTPException or OSError."""
    place, asked = urlsplit(url), parse_qs(urlsplit(url).query)
    message = EmailMessage()
    message["To"], message["From"] = asked["to"][0], asked.get("from", asked["to"])[0]
    count = len(content["raised"])
    message["Subject"] = f"curie {content['appliance']}: " + (f"{count} alarms" if count else "all is well again")
    lines = [f"{one['name']}: {one['text']}" for one in content["raised"]]
    lines += [f"over: {name}" for name in content["cleared"]]
    message.set_content("\n".join([*lines, "", f"at {content['at']}"]))
    kind = smtplib.SMTP_SSL if place.scheme == "smtps" else smtplib.SMTP
    with kind(place.hostname or "localhost", place.port or 0, timeout=ANSWER_S) as server:
        if place.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls()
        if "auth" in asked:
            server.login(*Path(asked["auth"][0]).read_text().strip().split(":", 1))
        server.send_message(message)

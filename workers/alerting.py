"""Tells people: alarms go to a webhook and by e-mail when they come and when they go. No patient is in them.

It must never hold up clinical work: it runs in a thread of its own, and what could not be told is told later.
"""

from __future__ import annotations

import json
import smtplib
import threading
import urllib.request
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from appliance.alarms import Change, change
from appliance.catalogue import Catalogue, events
from appliance.catalogue.connection import now
from appliance.log import logger
from appliance.process import keep_stepping
from appliance.settings import Settings
from appliance.watch import Watch, alarms_now

LOOK_S = 30.0
ANSWER_S = 15.0


def start(settings: Settings, catalogue: Catalogue, stop: threading.Event, watch: Watch) -> None:
    """Look for alarms in a thread of its own until told to stop."""
    alerting = Alerting(settings, catalogue, watch)
    threading.Thread(target=keep_stepping, args=(alerting.step, stop, LOOK_S), daemon=True).start()


class Alerting:
    """Knows what was told, and tells what is new."""

    def __init__(self, settings: Settings, catalogue: Catalogue, watch: Watch) -> None:
        self.settings, self.catalogue, self.watch = settings, catalogue, watch
        self.ways = ways(settings)
        self.unsent: dict[str, list[Change]] = {name: [] for name in self.ways}
        self.since: dict[str, str] = {}  # way → since when it fails
        with catalogue.read() as connection:
            self.told = set(events.open_alarms(connection))
        self.before = self.told  # what the last look found

    def step(self) -> None:
        """Look once; record and send what came and what went."""
        self.watch.look(self.catalogue)
        with self.catalogue.read() as connection:
            found = alarms_now(self.settings, connection, now())
        new = change(self.told, self.before, found, now())
        if new is not None:
            self._record(new)
            self.told = (self.told | {one.name for one in new.raised}) - set(new.cleared)
            for waiting in self.unsent.values():
                waiting.append(new)
        self.before = {one.name for one in found}
        for name, send in self.ways.items():
            self._send(name, send)
        self.watch.untold = dict(self.since)

    def _record(self, new: Change) -> None:
        with self.catalogue.write() as connection:
            for one in new.raised:
                events.record(connection, "alarm_raised", name=one.name, text=one.text)
            for name in new.cleared:
                events.record(connection, "alarm_cleared", name=name)
        logger().warning("alarms", raised=[one.name for one in new.raised], cleared=list(new.cleared))

    def _send(self, name: str, send: Callable[[Change], None]) -> None:
        waiting = self.unsent[name]
        while waiting:
            try:
                send(waiting[0])
            except (OSError, smtplib.SMTPException, ValueError) as error:
                logger().error("alarm_not_sent", way=name, cause=type(error).__name__, waiting=len(waiting))
                self.since.setdefault(name, now().isoformat())
                return
            waiting.pop(0)
        self.since.pop(name, None)


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
    raised = [{"name": one.name, "text": one.text} for one in new.raised]
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

"""Questions to a PACS: how many instances has this study? Asked beside dispatch, which must never wait for a PACS.

One thread asks one question at a time. A study is asked about once soon after it began, so that the count may be
known before its last instance comes; then when no instance came for a second, again only after new ones, or 5 s
later. A PACS that does not answer is left alone, from 5 s to 5 min.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from appliance.catalogue import Catalogue, evidence
from appliance.catalogue.connection import now
from appliance.completeness import SETTLED_S, StudyFacts
from appliance.errors import DeliveryFailed
from appliance.log import logger
from appliance.settings import Destination, Settings
from dicom_nodes.query import count_instances

ASK_AGAIN_S = 5.0
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 5.0, 300.0
FORGET_S = 3600.0  # when a study was last asked about


@dataclass(frozen=True)
class Question:
    """A study, and the PACS to ask about it."""

    study: str
    destination: Destination


def whom_to_ask(settings: Settings, source: str) -> Destination | None:
    """Return the destination that may be asked about studies of this AE: itself, else the only one there is."""
    allowed = [one for one in settings.destinations if one.find and one.host]
    for one in allowed:
        if one.ae_title == source:
            return one
    return allowed[0] if len(allowed) == 1 else None


def is_due(facts: StudyFacts, asked_at: datetime | None, now: datetime) -> bool:
    """Return whether the PACS should be asked about a study (again)."""
    if facts.expected is not None or facts.announcements.instances or facts.counted_before:
        return False  # another count is known, or none would be believed
    settled = facts.last_received_at + timedelta(seconds=SETTLED_S)
    if asked_at is None:
        return now >= facts.first_received_at + timedelta(seconds=SETTLED_S)
    return now >= settled and (asked_at < settled or now - asked_at >= timedelta(seconds=ASK_AGAIN_S))


class Inquiry:
    """The thread that asks, and what it remembers of studies and PACS."""

    def __init__(
        self, settings: Settings, catalogue: Catalogue, ask: Callable[..., int | None] = count_instances
    ) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self._ask = ask
        self._questions: queue.Queue[Question] = queue.Queue()
        self._asked: dict[str, datetime] = {}  # by study
        self._waiting: set[str] = set()  # studies whose question is on its way
        self._rests: dict[str, tuple[datetime, float]] = {}  # by destination: until when, and how long
        self._thread: threading.Thread | None = None

    def consider(self, facts: dict[str, StudyFacts], at: datetime) -> None:
        """Put the questions that are due; returns at once."""
        self._asked = {s: t for s, t in self._asked.items() if at - t < timedelta(seconds=FORGET_S)}
        for study, fact in facts.items():
            destination = whom_to_ask(self.settings, fact.source)
            if destination is None or study in self._waiting or self._rests_at(destination, at):
                continue
            if is_due(fact, self._asked.get(study), at):
                self._asked[study] = at
                self._waiting.add(study)
                self._put(Question(study, destination))

    def _rests_at(self, destination: Destination, at: datetime) -> bool:
        until, _ = self._rests.get(destination.name, (at, 0.0))
        return at < until

    def _put(self, question: Question) -> None:
        self._questions.put(question)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="inquiry", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            question = self._questions.get()
            try:
                self._answer(question)
            except Exception as error:  # noqa: BLE001 - the edge of this thread: a question may fail, asking goes on
                logger().error("inquiry_failed", cause=type(error).__name__)
                self._rest(question.destination)
            self._waiting.discard(question.study)

    def _answer(self, question: Question) -> None:
        name, asked_at = question.destination.name, now()
        if self._rests_at(question.destination, asked_at):
            return
        with self.catalogue.read() as connection:
            held = evidence.held_of(connection, question.study)
        try:
            count = self._ask(question.destination, self.settings.sender.ae_title, question.study)
        except DeliveryFailed as error:
            self._rest(question.destination)
            logger().warning("pacs_count_not_had", destination=name, reason=str(error))
            return
        self._rests.pop(name, None)
        if count is not None:
            self._write(question, count, held, asked_at)

    def _write(self, question: Question, count: int, held: int, asked_at: datetime) -> None:
        try:
            with self.catalogue.write() as connection:
                evidence.record_found(connection, question.study, count, held, asked_at)
        except SQLAlchemyError as error:  # the catalogue is away: asked again later
            logger().warning("pacs_count_not_kept", cause=type(error).__name__)

    def _rest(self, destination: Destination) -> None:
        _, last_s = self._rests.get(destination.name, (now(), 0.0))
        wait_s = min(max(last_s * 2, FIRST_BACKOFF_S), LONGEST_BACKOFF_S)
        self._rests[destination.name] = (now() + timedelta(seconds=wait_s), wait_s)

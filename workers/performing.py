"""Workitems of a UPS-RS worklist: claimed, reported and ended. A thread for each worklist, part of dispatch.

A workitem is claimed when its study is complete here and its route would run or be unable to; until then it stays
SCHEDULED, for somebody else or for later. Every step is written down before it is said, and can be said again: so a
restart goes on where it was. It must never end a workitem as COMPLETED before its results lie at their destinations.

| the job is                      | the workitem becomes                                             |
|---------------------------------|------------------------------------------------------------------|
| queued, running, delivering     | IN PROGRESS, with how far it is                                  |
| completed                       | COMPLETED, with references to the results                        |
| anything else                   | CANCELED, with reason and code: it must not look like a normal   |
|                                 | study without findings                                           |
"""

from __future__ import annotations

import threading
from datetime import timedelta

from appliance.catalogue import Catalogue, workitems
from appliance.catalogue import routing as decisions
from appliance.catalogue.connection import now
from appliance.catalogue.workitems import HELD, Answered, Held
from appliance.errors import CurieError, DeliveryFailed, Refused, Unreachable
from appliance.finding import Code
from appliance.job import derived_uid
from appliance.log import logger
from appliance.outward import Worklist
from appliance.process import keep_stepping
from appliance.routing import decide as route_decision
from appliance.settings import Settings
from dicom_nodes import worklist as there
from dicom_nodes.worklist import IN_PROGRESS, NOT_OURS, SCHEDULED, Performance, Workitem
from models.registry import Registry
from workers.waits import backoff_s

COMPLETED, CANCELED = "COMPLETED", "CANCELED"
PROGRESS = {  # job state → percent, in words
    "queued": (0, "waits for its turn"),
    "running": (10, "images are read"),
    "delivering": (90, "results are delivered"),
}
UNSPECIFIED = Code("110513", "DCM", "Discontinued for unspecified reason")  # CID 9300
REASONS = {
    "unsuitable": Code("110522", "DCM", "Object Types not supported"),
    "failed": Code("110501", "DCM", "Equipment failure"),
}


def start(settings: Settings, catalogue: Catalogue, stop: threading.Event) -> None:
    """Serve each worklist in a thread of its own until told to stop."""
    for one in settings.worklists:
        performing = Performing(settings, catalogue, one)
        threading.Thread(target=keep_stepping, args=(performing.step, stop, one.poll_s), daemon=True).start()


class Performing:
    """One pass after another over one worklist."""

    def __init__(self, settings: Settings, catalogue: Catalogue, worklist: Worklist) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.worklist = worklist
        self.route = next(one for one in settings.routes if one.name == worklist.route)
        self.registry = Registry(settings, catalogue)
        self._said = ""  # what kept the last search from being answered
        self._others: set[str] = set()  # workitems there that do not ask for us

    def step(self) -> None:
        """Look for what is new, then go on with what we hold; a workitem may go through several states in one pass."""
        self._look()
        for state in HELD:
            with self.catalogue.read() as connection:
                held = workitems.of_worklist(connection, self.worklist.name, (state,), now())
            for one in held:
                self._go_on(one)

    # --- what is scheduled ---

    def _look(self) -> None:
        """Claim what is scheduled there and can be performed here; note why the rest is left."""
        try:
            uids = there.search(self.worklist)
            self._write_down(uids)
        except DeliveryFailed as error:
            if str(error) != self._said:
                logger().warning("worklist_away", worklist=self.worklist.name, reason=str(error))
            self._said = str(error)
            return
        self._said = ""
        with self.catalogue.read() as connection:
            scheduled = workitems.of_worklist(connection, self.worklist.name, ("scheduled",), now())
        for one in scheduled:
            self._consider(one)

    def _write_down(self, uids: list[str]) -> None:
        with self.catalogue.read() as connection:
            new = workitems.unknown(connection, uids)
        self._others &= set(uids)
        found = {uid: self._first_look(uid) for uid in new if uid not in self._others}
        with self.catalogue.write() as connection:
            workitems.forget_unseen(connection, self.worklist.name, uids)
            for uid, item in found.items():
                if item is not None:
                    workitems.seen(connection, self._row(uid, item), now())

    def _first_look(self, uid: str) -> Workitem | None:
        """Return a workitem that asks for us; None for one that does not, or is gone since the search."""
        try:
            item = there.retrieve(self.worklist, uid)
        except Refused:
            return None
        if not item.asks_us:
            self._others.add(uid)  # a server that does not search by all that it is given
        return item if item.asks_us and item.state == SCHEDULED else None

    def _row(self, uid: str, item: Workitem) -> dict[str, object]:
        return {
            "sop_instance_uid": uid,
            "worklist": self.worklist.name,
            "transaction_uid": derived_uid("workitem", self.settings.appliance_uid, uid),
            "study_instance_uid": item.study_instance_uid,
            "route": self.route.name,
            "urgent": int(item.urgent),
        }

    def _consider(self, one: Held) -> None:
        reason = self._why_not(one.study_instance_uid)
        try:
            reason = reason or self._why_not_there(there.retrieve(self.worklist, one.sop_instance_uid))
        except DeliveryFailed as error:
            reason = str(error)
        if reason and reason == one.reason:
            return
        with self.catalogue.write() as connection:
            if reason:
                workitems.left(connection, one.sop_instance_uid, reason)
            else:
                workitems.claiming(connection, one.sop_instance_uid)
        named = {"worklist": self.worklist.name, "workitem": one.sop_instance_uid}
        logger().info("workitem_left" if reason else "workitem_claiming", **named, reason=reason)

    def _why_not(self, study: str) -> str:
        """Return why a study cannot be performed here now, "" where it can, or its route cannot run for it."""
        if not study:
            return "it names no study, or several"
        with self.catalogue.read() as connection:
            state = workitems.study_state(connection, study)
            summary = decisions.study_summary(connection, study)
        if state != "complete":
            return "the study is still coming" if state else "the study is not here"
        try:
            package = self.registry.routed(self.route.package)
        except CurieError as error:
            return str(error)
        decision = route_decision(summary, self.route.match, package.requirements)
        return "" if decision.outcome in ("job", "unsuitable") else decision.reason

    def _why_not_there(self, item: Workitem) -> str:
        if item.state != SCHEDULED:
            return f"it is {item.state} there"
        return "" if item.ready else "its inputs are said to be incomplete there"

    # --- what we hold ---

    def _go_on(self, one: Held) -> None:
        """Do the next thing for a workitem; what may pass is tried again later, what is not ours is let go."""
        try:
            if one.state == "claiming":
                self._claim(one)
            elif one.state == "claimed":
                self._follow(one)
            else:
                self._close(one)
        except Refused as refused:
            self._lose(one, refused) if refused.status in NOT_OURS else self._put_off(one, refused)
        except Unreachable as error:
            self._put_off(one, error)

    def _claim(self, one: Held) -> None:
        try:
            self._change_state(one, IN_PROGRESS)
        except Refused as refused:
            if refused.status not in NOT_OURS or not self._is_ours(one):
                raise
        with self.catalogue.write() as connection:
            workitems.claimed(connection, one, now())

    def _is_ours(self, one: Held) -> bool:
        """Tell whether an earlier claim of ours arrived, whose answer did not."""
        if there.retrieve(self.worklist, one.sop_instance_uid).state != IN_PROGRESS:
            return False
        try:
            self._report(one, "queued")
        except Refused as refused:
            if refused.status not in NOT_OURS:
                raise
            return False
        return True

    def _follow(self, one: Held) -> None:
        with self.catalogue.read() as connection:
            answer = workitems.answer_of(connection, one)
        if answer is None or (answer.outcome == "superseded" and not answer.routed):
            return  # the route has not decided, or not anew
        if answer.outcome not in PROGRESS:
            self._end(one, answer)
        elif PROGRESS[answer.outcome][0] != one.progress:
            self._report(one, answer.outcome)
            with self.catalogue.write() as connection:
                workitems.reported(connection, one, PROGRESS[answer.outcome][0])

    def _end(self, one: Held, answer: Answered) -> None:
        """Decide how a workitem ends; the next pass says so."""
        ending = COMPLETED if answer.outcome == "completed" else CANCELED
        reason = "" if ending == COMPLETED else f"{answer.outcome}: {answer.reason}"
        with self.catalogue.write() as connection:
            workitems.closing(connection, one, ending, reason, answer.job_id, now())

    def _close(self, one: Held) -> None:
        item = there.retrieve(self.worklist, one.sop_instance_uid)
        if item.state not in (IN_PROGRESS, one.ending):
            raise Refused(f"{self.worklist.name} has it as {item.state or 'nothing'} by somebody else", 409)
        if item.state == IN_PROGRESS:
            self._report_ending(one, item)
            self._change_state(one, one.ending)
        with self.catalogue.write() as connection:
            workitems.closed(connection, one)
        logger().info("workitem_closed", workitem=one.sop_instance_uid, ending=one.ending, reason=one.reason)

    def _report_ending(self, one: Held, item: Workitem) -> None:
        mine = (self.worklist, one.sop_instance_uid, one.transaction_uid)
        if one.ending == COMPLETED:
            there.report_performed(*mine, item, self._performance(one))
        else:
            code = REASONS.get(one.reason.partition(":")[0], UNSPECIFIED)
            there.report_reason(*mine, code, one.reason, now())

    def _performance(self, one: Held) -> Performance:
        with self.catalogue.read() as connection:
            outputs = workitems.outputs(connection, one.job_id)
            answer = workitems.answer_of(connection, one)
        started = (answer and answer.started_at) or one.claimed_at or now()
        known = {destination.name: destination for destination in self.settings.destinations}
        station = self.settings.appliance.name
        return Performance(one.study_instance_uid, station, started, now(), outputs, known)

    def _report(self, one: Held, state: str) -> None:
        there.report_progress(self.worklist, one.sop_instance_uid, one.transaction_uid, *PROGRESS[state])

    def _change_state(self, one: Held, state: str) -> None:
        our_title = self.settings.sender.ae_title
        there.change_state(self.worklist, one.sop_instance_uid, state, one.transaction_uid, our_title)

    def _lose(self, one: Held, refused: Refused) -> None:
        with self.catalogue.write() as connection:
            workitems.lost(connection, one, str(refused))
        named = {"worklist": self.worklist.name, "workitem": one.sop_instance_uid}
        logger().warning("workitem_lost", **named, reason=str(refused))

    def _put_off(self, one: Held, error: DeliveryFailed) -> None:
        with self.catalogue.write() as connection:
            workitems.put_off(connection, one, str(error), now() + timedelta(seconds=backoff_s(one.tries)))
        if str(error) != one.answer:
            logger().warning("workitem_put_off", workitem=one.sop_instance_uid, reason=str(error))

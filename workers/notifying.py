"""Notices: what others are told about a job beside its results. Part of the delivery process.

Retried from 1 s to 15 min apart, without end; what a recipient rejects for good waits for an operator
(`curie jobs retry`). A notice must never fail a job, nor keep a result waiting.
"""

from __future__ import annotations

from datetime import timedelta

from appliance.catalogue import Catalogue, notices
from appliance.catalogue.connection import now
from appliance.catalogue.notices import AVAILABILITY, Notice, Told
from appliance.errors import CurieError, Missing
from appliance.job import ObjectReference, derived_uid
from appliance.log import logger
from appliance.settings import Settings
from dicom_nodes import availability
from workers.waits import backoff_s


class Rejected(CurieError):
    """The recipient will not take this notice, however often it comes."""


class Notifying:
    """One pass after another over the notices that are due."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings = settings
        self.catalogue = catalogue

    def step(self) -> None:
        """Send what is due; a recipient that fails once is left alone for this pass."""
        with self.catalogue.read() as connection:
            waiting = notices.due(connection, now())
        silent: set[tuple[str, str]] = set()
        for one in waiting:
            if (one.kind, one.recipient) not in silent and not self._send(one):
                silent.add((one.kind, one.recipient))

    def _send(self, one: Notice) -> bool:
        """Send one notice; False where it was put off."""
        try:
            with self.catalogue.read() as connection:
                told = notices.told(connection, one)
            answer = self._tell(one, told)
        except Rejected as refusal:
            with self.catalogue.write() as connection:
                notices.refused(connection, one, str(refusal))
            logger().error("notice_refused", job=one.job_id, notice=one.kind, to=one.recipient, reason=str(refusal))
            return True
        except (CurieError, OSError) as error:
            reason = str(error) if isinstance(error, CurieError) else type(error).__name__
            with self.catalogue.write() as connection:
                notices.put_off(connection, one, reason, now() + timedelta(seconds=backoff_s(one.tries)))
            logger().warning("notice_put_off", job=one.job_id, notice=one.kind, to=one.recipient, reason=reason)
            return False
        with self.catalogue.write() as connection:
            notices.sent(connection, one, answer, now())
        logger().info("notice_sent", job=one.job_id, notice=one.kind, to=one.recipient, answer=answer)
        return True

    def _tell(self, one: Notice, told: Told) -> str:
        return self._availability(one, told) if one.kind == AVAILABILITY else self._observations(one, told)

    def _availability(self, one: Notice, told: Told) -> str:
        destination = next((d for d in self.settings.destinations if d.name == one.recipient and d.notify), None)
        if destination is None:
            raise Rejected(f"destination {one.recipient} is not notified any more")
        objects = [ObjectReference(sop_class, instance, series) for sop_class, instance, series, _, _ in told.objects]
        content = availability.notification(told.study_instance_uid, objects, destination.ae_title or "")
        uid = derived_uid("availability", self.settings.appliance_uid, told.job_id, one.recipient)
        return availability.notify(destination, self.settings.sender.ae_title, uid, content)

    def _observations(self, one: Notice, told: Told) -> str:  # noqa: ARG002
        raise Missing(f"no receiver of messages is called {one.recipient}")

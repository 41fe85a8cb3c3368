"""Notices: what others are told about a job beside its results. Part of the delivery process.

Retried from 1 s to 15 min apart, without end; what a recipient rejects for good waits for an operator
(`curie jobs retry`). A notice must never fail a job, nor keep a result waiting.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from appliance.catalogue import Catalogue, notices
from appliance.catalogue.connection import now
from appliance.catalogue.notices import AVAILABILITY, Notice, Told
from appliance.errors import CurieError, Refused
from appliance.finding import Code
from appliance.job import ObjectReference, derived_uid
from appliance.log import logger
from appliance.settings import Settings
from dicom_nodes import availability, mllp, observation_message
from dicom_nodes.observation_message import Envelope, Observed
from workers.waits import backoff_s


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
        except Refused as refusal:
            with self.catalogue.write() as connection:
                notices.refused(connection, one, str(refusal))
            logger().error("notice_refused", job=one.job_id, notice=one.kind, to=one.recipient, reason=str(refusal))
            return True
        except Exception as error:  # noqa: BLE001 - whatever breaks in one notice, the others are sent
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
            raise Refused(f"destination {one.recipient} is not notified any more")
        objects = [ObjectReference(sop_class, instance, series) for sop_class, instance, series, _, _ in told.objects]
        content = availability.notification(told.study_instance_uid, objects, destination.ae_title or "")
        uid = derived_uid("availability", self.settings.appliance_uid, told.job_id, one.recipient)
        return availability.notify(destination, self.settings.sender.ae_title, uid, content)

    def _observations(self, one: Notice, told: Told) -> str:
        receiver = next((m for m in self.settings.messages if m.name == one.recipient), None)
        if receiver is None:
            raise Refused(f"no receiver of messages is called {one.recipient} in the settings any more")
        report = next((path for *_, role, path in told.objects if role == "SR"), None)
        if report is None:
            raise Refused("no report of this job was delivered")
        control_id = hashlib.sha256(
            f"{self.settings.appliance_uid}|{told.job_id}|{one.recipient}".encode()
        ).hexdigest()[:20]
        content = observation_message.message(
            self.settings.results_dir / report,
            _observed(told),
            Envelope(control_id, self.settings.appliance.name, receiver.application, receiver.facility, now()),
        )
        if problem := observation_message.problem(content):
            raise Refused(f"the message that was made is not valid HL7 ({problem})")
        return mllp.send(receiver, content, control_id)


def _observed(told: Told) -> Observed:
    return Observed(
        study_instance_uid=told.study_instance_uid,
        accession_number=told.accession_number,
        service=Code(told.package, "L", f"{told.package} {told.package_version}"),
        urgent=told.urgent,
        tells=told.tells,
        findings=told.findings,
        ended_at=told.finished_at or told.created_at,
    )

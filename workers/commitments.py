"""Storage commitment (PS3.4 Annex J): asked for what was delivered, and the reports judged. Part of delivery.

A parcel is committed when one report from the destination itself matches the request exactly, and no other report
of the same request says otherwise. It must never believe a report because it is good news.

| the report says of an object    | then                                                            |
|---------------------------------|-----------------------------------------------------------------|
| stored                          | committed                                                       |
| 0112, it is not there           | sent again; after five losses rejected                          |
| 0119 or 0122, another class     | rejected: that does not change by itself                        |
| 0131, the transaction is known  | asked again, in another transaction                             |
| 0110, 0213, anything else       | asked again, a minute to 15 minutes later                       |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from appliance.catalogue import Catalogue, events, outbox
from appliance.catalogue.connection import now
from appliance.catalogue.outbox import Parcel
from appliance.errors import DeliveryFailed
from appliance.job import derived_uid
from appliance.log import logger
from appliance.settings import Destination, Settings
from dicom_nodes import commitment, sender
from dicom_nodes.sender import Reference
from workers.waits import backoff_s

REPORT_WAIT_S = 2.0  # how long the association stays open for a report on it
ASK_AGAIN_S = 60.0  # first wait for a report before asking again
MOST_LOSSES = 5  # of one parcel
KNOWN_TRANSACTION = 0x0131
NEVER = {  # failure reasons that do not change by themselves (PS3.3 Section C.14.1.1)
    0x0119: "it holds another kind of object under this UID",
    0x0122: "it commits no objects of this class",
}


class Commitments:
    """Requests and reports of one delivery process."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self._known = {one.name: one for one in settings.destinations}
        self._reading = threading.Lock()  # two threads must not judge the same report

    # --- asking ---

    def ask(self, destination: Destination, parcels: Sequence[Parcel]) -> None:
        """Ask for commitment of delivered parcels; the report may come here or at the receiver."""
        transaction = self._transaction(parcels)
        wait_s = backoff_s(max(p.tries for p in parcels), ASK_AGAIN_S)
        with self.catalogue.write() as connection:
            outbox.commitment_asked(connection, parcels, transaction, now() + timedelta(seconds=wait_s))
        reported = threading.Event()

        def on_report(event: Any) -> tuple[int, None]:
            kept = commitment.keep_report(self.catalogue, event, destination.ae_title or "")
            reported.set()
            return (0x0000 if kept else commitment.INVALID_ARGUMENT), None

        try:
            with sender.commitment_association(destination, self.settings.sender.ae_title, on_report) as association:
                sender.ask_commitment(association, transaction, [_reference(p) for p in parcels])
                self._await_report(transaction, reported)
        except DeliveryFailed as error:
            self._put_off(parcels, f"storage commitment: {error}")

    def _transaction(self, parcels: Sequence[Parcel]) -> str:
        """Return the Transaction UID: of the same objects always the same, until one of them was lost.

        So a report that comes after we asked again still counts, and one of before a loss does not.
        """
        parts: list[object] = ["commitment", self.settings.appliance_uid, sorted(p.sop_instance_uid for p in parcels)]
        if lost := sorted([p.sop_instance_uid, p.losses] for p in parcels if p.losses):
            parts.append(lost)
        return derived_uid(*parts)

    def _await_report(self, transaction: str, reported: threading.Event) -> None:
        """Keep the association open for a report on it, until one came here or at the receiver."""
        deadline = time.monotonic() + REPORT_WAIT_S
        while time.monotonic() < deadline and not reported.wait(0.1):
            with self.catalogue.read() as connection:
                if any(report.transaction_uid == transaction for report in outbox.unread_reports(connection)):
                    return

    def _put_off(self, parcels: Sequence[Parcel], reason: str) -> None:
        with self.catalogue.write() as connection:
            for parcel in parcels:
                outbox.put_off(connection, parcel, reason, now() + timedelta(seconds=backoff_s(parcel.tries)))
        logger().warning("commitment_put_off", count=len(parcels), reason=reason)

    # --- reports ---

    def read_reports(self) -> None:
        """Judge the reports that nobody has read."""
        with self._reading:
            with self.catalogue.read() as connection:
                reports = outbox.unread_reports(connection)
            for transaction in dict.fromkeys(report.transaction_uid for report in reports):
                self._read([report for report in reports if report.transaction_uid == transaction])

    def _read(self, reports: Sequence[Any]) -> None:
        """Judge all unread reports of one request together: what contradicts itself is not believed."""
        transaction = reports[0].transaction_uid
        with self.catalogue.write() as connection:
            parcels = outbox.of_transaction(connection, transaction)
            if not parcels:
                self._read_late(connection, reports)
                return
            for report in reports:
                outbox.mark_read(connection, report.id)
            verdicts = [self._verdict(parcels, report) for report in reports]
            believed = [one for one in verdicts if not one.distrust]
            for one in verdicts:
                if one.distrust:
                    logger().error("commitment_report_distrusted", reason=one.distrust)
            if any(one != believed[0] for one in believed):
                logger().error("commitment_reports_contradict", transaction=transaction)
            elif believed:
                self._apply(connection, parcels, believed[0])

    def _read_late(self, connection: Any, reports: Sequence[Any]) -> None:
        """Forget reports of a request that was never ours, was replaced or is answered; say what takes back a yes."""
        transaction = reports[0].transaction_uid
        parcels = {_reference(one): one for one in outbox.vouched_for(connection, transaction)}
        for report in reports:
            outbox.drop_report(connection, report.id)
            denied = [Reference(str(item[0]), str(item[1])) for item in report.failed]
            for parcel in [parcels[one] for one in denied if one in parcels and self._is_of(report, parcels[one])]:
                events.record(connection, "commitment_taken_back", job=parcel.job_id, to=parcel.destination)
                logger().error("commitment_taken_back", job=parcel.job_id, to=parcel.destination)
        if not parcels:
            logger().warning("commitment_report_unknown", transaction=transaction[:64])

    def _is_of(self, report: Any, parcel: Parcel) -> bool:
        return bool(report.ae_title == self._asked_of(parcel))

    def _asked_of(self, parcel: Parcel) -> str:
        destination = self._known.get(parcel.destination)
        return (destination.ae_title if destination else None) or ""

    def _verdict(self, parcels: Sequence[Parcel], report: Any) -> commitment.Verdict:
        asked = [_reference(p) for p in parcels]
        return commitment.judge(asked, self._asked_of(parcels[0]), report.ae_title, report.stored, report.failed)

    def _apply(self, connection: Any, parcels: Sequence[Parcel], verdict: commitment.Verdict) -> None:
        refused = dict(verdict.ask_again)
        for parcel in parcels:
            reference = _reference(parcel)
            if reference in verdict.committed:
                outbox.committed(connection, parcel, now())
            elif reference in verdict.send_again:
                self._lost(connection, parcel)
            else:
                self._not_committed(connection, parcel, refused[reference])

    def _lost(self, connection: Any, parcel: Parcel) -> None:
        if parcel.losses + 1 >= MOST_LOSSES:
            times = parcel.losses + 1
            outbox.rejected(connection, parcel, f"took it {times} times and says that it does not hold it", now())
            return
        later = now() + timedelta(seconds=backoff_s(parcel.losses))
        outbox.send_again(connection, parcel, "the destination does not hold it: sent again", later)

    def _not_committed(self, connection: Any, parcel: Parcel, reason: int) -> None:
        answer = f"not committed, failure reason 0x{reason:04X}"
        later = now() + timedelta(seconds=backoff_s(max(parcel.tries - 1, 0), ASK_AGAIN_S))
        if reason in NEVER:
            outbox.rejected(connection, parcel, f"{answer}: {NEVER[reason]}", now())
        elif reason == KNOWN_TRANSACTION:
            outbox.ask_anew(connection, parcel, answer, later)
        else:
            outbox.put_off(connection, parcel, answer, later)


def _reference(parcel: Parcel) -> Reference:
    return Reference(parcel.sop_class_uid, parcel.sop_instance_uid)

"""The delivery process: outbox → C-STORE → storage commitment → committed. It only ever sends the stored bytes.

A destination that is away is tried again for ever, from 1 s to 15 min apart; a refusal is shown and waits for an
operator. A parcel is committed when the destination's report matches the request exactly, never before.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import InterfaceError, OperationalError

from appliance.catalogue import Catalogue, outbox
from appliance.catalogue.connection import now
from appliance.catalogue.outbox import Parcel
from appliance.errors import DeliveryFailed, Refused, Unreachable
from appliance.job import derived_uid
from appliance.log import logger
from appliance.settings import Destination, Settings
from dicom_nodes import commitment, sender
from dicom_nodes.result_classes import LABEL_MAP
from dicom_nodes.sender import Reference

POLL_S = 0.3
REPORT_WAIT_S = 2.0  # how long the association stays open for a report on it
ASK_AGAIN_S = 60.0  # first wait for a report before asking again
LONGEST_WAIT_S = 900.0


def backoff_s(tries: int, first: float = 1.0) -> float:
    """Return the wait after so many tries in vain: doubling from `first`, at most 15 minutes."""
    return float(min(first * 2 ** min(tries, 20), LONGEST_WAIT_S))


class Delivery:
    """One pass after another over the outbox."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self._known = {one.name: one for one in settings.destinations}
        self._commits = frozenset(one.name for one in settings.destinations if one.commitment)

    def step(self) -> None:
        """Send what is due, read the reports, ask for commitment, complete jobs."""
        with self.catalogue.read() as connection:
            waiting = outbox.due(connection, now())
        for name, parcels in _by_destination(waiting).items():
            self._each(self._send, name, parcels)
        self._read_reports()
        with self.catalogue.read() as connection:
            unasked = [p for p in outbox.due(connection, now(), "delivered") if p.destination in self._commits]
        for name, parcels in _by_destination(unasked).items():
            self._each(self._ask, self._known[name], parcels)
        self._read_reports()
        self._complete()

    def _each(self, act: Callable[..., None], *what: Any) -> None:
        """Do one thing of several; what breaks there is logged and does not stop the others."""
        try:
            act(*what)
        except (OperationalError, InterfaceError):
            raise  # the catalogue is away: the whole step is tried again
        except Exception as error:  # noqa: BLE001 - one destination or report must not stop the others
            logger().error("delivery_step_failed", step=act.__name__, cause=type(error).__name__)

    def _complete(self) -> None:
        with self.catalogue.read() as connection:
            if not outbox.any_delivering(connection):
                return
        with self.catalogue.write() as connection:
            for job in outbox.complete_jobs(connection, self._commits, now()):
                logger().info("job_completed", job=job)

    # --- sending ---

    def _send(self, name: str, parcels: Sequence[Parcel]) -> None:
        destination = self._known.get(name)
        if destination is None:
            self._put_off(parcels, f"no destination is called {name} in the settings any more")
            return
        contexts = sender.storage_contexts([p.sop_class_uid for p in parcels])
        left = list(parcels)
        try:
            with sender.associate(destination, self.settings.sender.ae_title, contexts) as association:
                left = self._of_one_variant(association, left)
                while left:
                    self._send_one(association, left[0])
                    left.pop(0)
        except Unreachable as error:
            self._put_off(left, str(error))
        except Refused as refusal:
            for parcel in left:
                self._reject(parcel, str(refusal))

    def _of_one_variant(self, association: Any, parcels: Sequence[Parcel]) -> list[Parcel]:
        """Return what is to be sent where a label map may stand for segments: the form that the peer accepted."""
        jobs = sorted({one.job_id for one in parcels if one.variant})
        if not jobs:
            return list(parcels)
        chosen = "labelmap" if sender.accepts(association, LABEL_MAP) else "binary"
        with self.catalogue.write() as connection:
            outbox.choose_variant(connection, parcels[0].destination, jobs, chosen)
        return [one for one in parcels if one.variant in ("", chosen)]

    def _send_one(self, association: Any, parcel: Parcel) -> None:
        path = self.settings.results_dir / parcel.path
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != parcel.sha256:
            self._reject(parcel, "the stored result file is gone or changed; it is not sent")
            return
        try:
            answer = sender.store(association, parcel.sop_class_uid, path)
        except Refused as refusal:
            self._reject(parcel, str(refusal))
            return
        with self.catalogue.write() as connection:
            outbox.delivered(connection, parcel, answer, now(), now())
        logger().info("result_delivered", job=parcel.job_id, to=parcel.destination, answer=answer)

    def _reject(self, parcel: Parcel, reason: str) -> None:
        with self.catalogue.write() as connection:
            outbox.rejected(connection, parcel, reason, now())
        logger().error("result_rejected", job=parcel.job_id, to=parcel.destination, reason=reason)

    def _put_off(self, parcels: Sequence[Parcel], reason: str) -> None:
        at = now()
        with self.catalogue.write() as connection:
            for parcel in parcels:
                outbox.put_off(connection, parcel, reason, at + timedelta(seconds=backoff_s(parcel.tries)))
        logger().warning("delivery_put_off", count=len(parcels), tries=parcels[0].tries + 1, reason=reason)

    # --- commitment ---

    def _ask(self, destination: Destination, parcels: Sequence[Parcel]) -> None:
        """Ask for commitment of delivered parcels; the report may come here or at the receiver."""
        asked_at = now()
        # the same objects, the same transaction: a report that comes after we asked again still counts
        transaction = derived_uid(
            "commitment", self.settings.appliance_uid, sorted(p.sop_instance_uid for p in parcels)
        )
        wait_s = backoff_s(max(p.tries for p in parcels), ASK_AGAIN_S)
        with self.catalogue.write() as connection:
            outbox.commitment_asked(connection, parcels, transaction, asked_at + timedelta(seconds=wait_s))
        reported = threading.Event()

        def on_report(event: Any) -> tuple[int, None]:
            commitment.keep_report(self.catalogue, event, destination.ae_title or "")
            reported.set()
            return 0x0000, None

        try:
            with sender.commitment_association(destination, self.settings.sender.ae_title, on_report) as association:
                sender.ask_commitment(association, transaction, [_reference(p) for p in parcels])
                self._await_report(transaction, reported)
        except DeliveryFailed as error:
            self._put_off_asking(parcels, str(error))

    def _await_report(self, transaction: str, reported: threading.Event) -> None:
        """Keep the association open for a report on it, until one came here or at the receiver."""
        deadline = time.monotonic() + REPORT_WAIT_S
        while time.monotonic() < deadline and not reported.wait(0.1):
            with self.catalogue.read() as connection:
                if any(report.transaction_uid == transaction for report in outbox.unread_reports(connection)):
                    return

    def _put_off_asking(self, parcels: Sequence[Parcel], reason: str) -> None:
        self._put_off([p for p in parcels if p.state == "delivered"], f"storage commitment: {reason}")

    def _read_reports(self) -> None:
        with self.catalogue.read() as connection:
            reports = outbox.unread_reports(connection)
        for report in reports:
            self._each(self._read_report, report)

    def _read_report(self, report: Any) -> None:
        with self.catalogue.write() as connection:
            parcels = outbox.of_transaction(connection, report.transaction_uid)
            if not parcels:
                outbox.drop_report(connection, report.id)
                logger().warning("commitment_report_unknown", transaction=report.transaction_uid[:64])
                return
            outbox.mark_read(connection, report.id)
            destination = self._known.get(parcels[0].destination)
            asked_of = (destination.ae_title if destination else None) or ""
            verdict = commitment.judge(
                [_reference(p) for p in parcels], asked_of, report.ae_title, report.stored, report.failed
            )
            self._apply(connection, parcels, verdict)

    def _apply(self, connection: Any, parcels: Sequence[Parcel], verdict: commitment.Verdict) -> None:
        if verdict.distrust:
            logger().error("commitment_report_distrusted", reason=verdict.distrust)
            return
        refused = dict(verdict.ask_again)
        for parcel in parcels:
            reference = _reference(parcel)
            later = now() + timedelta(seconds=backoff_s(parcel.tries))
            if reference in verdict.committed:
                outbox.committed(connection, parcel, now())
            elif reference in verdict.send_again:
                outbox.send_again(connection, parcel, "the destination does not hold it: sent again", later)
            else:
                reason = f"not committed, failure reason 0x{refused[reference]:04X}"
                outbox.put_off(connection, parcel, reason, now() + timedelta(seconds=ASK_AGAIN_S))


def _reference(parcel: Parcel) -> Reference:
    return Reference(parcel.sop_class_uid, parcel.sop_instance_uid)


def _by_destination(parcels: Sequence[Parcel]) -> dict[str, list[Parcel]]:
    grouped: dict[str, list[Parcel]] = {}
    for parcel in parcels:
        grouped.setdefault(parcel.destination, []).append(parcel)
    return grouped

"""The delivery process: outbox → C-STORE or STOW-RS → storage commitment → completed. It sends only the stored bytes.

A destination that is away is tried again for ever, from 1 s to 15 min apart; a refusal is shown and waits for an
operator; what a destination need not take and does not is withdrawn. Each destination has a thread of its own, so
that one that hangs keeps no other waiting.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.exc import InterfaceError, OperationalError

from appliance.catalogue import Catalogue, notices, outbox
from appliance.catalogue.connection import now
from appliance.catalogue.outbox import Parcel
from appliance.errors import NotAccepted, Refused, Unreachable
from appliance.log import logger
from appliance.process import keep_stepping
from appliance.settings import Destination, Settings
from dicom_nodes.dicomweb import Shipment, Verdict
from dicom_nodes.result_classes import LABEL_MAP
from workers.commitments import Commitments
from workers.identity import CONTRADICTS, contradicted
from workers.notifying import Notifying
from workers.sending import Line, open_line
from workers.waits import backoff_s

POLL_S = 0.3
NEEDED = ("SEG", "SR")  # roles without which a result says nothing: refused, they fail the job


class Delivery:
    """One pass after another over the outbox."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.commitments = Commitments(settings, catalogue)
        self.notifying = Notifying(settings, catalogue)
        self._known = {one.name: one for one in settings.destinations}
        self._commits = frozenset(one.name for one in settings.destinations if one.commits)
        self._notified = frozenset(one.name for one in settings.destinations if one.notify)

    def run(self, stop: threading.Event) -> None:
        """Serve every destination in a thread of its own, and the rest here, until told to stop."""
        steps = [lambda name=name: self.serve(name) for name in self._known]
        threads = [
            threading.Thread(target=keep_stepping, args=(step, stop, POLL_S), daemon=True)
            for step in (*steps, self.notifying.step)
        ]
        for one in threads:
            one.start()
        keep_stepping(self.finish, stop, POLL_S)

    def step(self) -> None:
        """Do everything once, one after the other."""
        for name in self._known:
            self.serve(name)
        self.finish()
        self.notifying.step()

    def serve(self, name: str) -> None:
        """Send what is due at one destination, ask for commitment, read reports."""
        if waiting := self._due(name):
            self._each(self._send, name, waiting)
            self.commitments.read_reports()
        if name in self._commits and (unasked := self._due(name, "delivered")):
            self._each(self.commitments.ask, self._known[name], unasked)
        self._each(self.commitments.read_reports)

    def finish(self) -> None:
        """Put off what has no destination any more, read reports, complete jobs."""
        lost = [one for one in self._due() if one.destination not in self._known]
        for name in sorted({one.destination for one in lost}):
            reason = f"no destination is called {name} in the settings any more"
            self._put_off([one for one in lost if one.destination == name], reason)
        self._each(self.commitments.read_reports)
        self._complete()

    def _due(self, name: str | None = None, state: str = "waiting") -> list[Parcel]:
        with self.catalogue.read() as connection:
            return outbox.due(connection, now(), state, name)

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
        receivers = [(one.name, one.routes) for one in self.settings.messages]
        with self.catalogue.write() as connection:
            for job in outbox.complete_jobs(connection, self._commits, now()):
                notices.open_observations(connection, job, receivers, now())
                logger().info("job_completed", job=job)

    def _send(self, name: str, parcels: Sequence[Parcel]) -> None:
        destination = self._known[name]
        left = {parcel.sop_instance_uid: parcel for parcel in parcels}
        try:
            self._hold_back(destination, left)
            if not left:
                return
            with open_line(destination, self.settings.sender.ae_title, parcels) as line:
                self._choose_variants(line, left)
                self._send_over(line, left)
        except Unreachable as error:
            if left:
                self._put_off(list(left.values()), str(error))
        except Refused as refusal:
            for parcel in left.values():
                self._judge(parcel, refusal)

    def _hold_back(self, destination: Destination, left: dict[str, Parcel]) -> None:
        """Put off what the destination knows under another patient."""
        there = [one for one in left.values() if (self.settings.results_dir / one.path).exists()]
        wrong = contradicted(destination, self.settings.sender.ae_title, there, self.settings.results_dir)
        if wrong:
            self._put_off(wrong, CONTRADICTS)
            for one in wrong:
                del left[one.sop_instance_uid]

    def _choose_variants(self, line: Line, left: dict[str, Parcel]) -> None:
        """Where a label map may stand for segments, send it first; the segments go if it is not taken."""
        for job in sorted({one.job_id for one in left.values() if one.variant}):
            maps = {one.sop_instance_uid: one for one in left.values() if one.job_id == job and _is_label_map(one)}
            why = "" if line.may_take(LABEL_MAP) else "takes no label maps; segments are sent instead"
            for one in maps.values():
                why = why or self._refusal(line, one)
            chosen = "binary" if why else "labelmap"
            destination = next(one.destination for one in left.values() if one.job_id == job)
            with self.catalogue.write() as connection:
                for one in maps.values() if why else ():
                    outbox.not_taken(connection, one, why)
                outbox.choose_variant(connection, destination, job, chosen)
            gone = maps.keys() | {u for u, p in left.items() if p.job_id == job and p.variant not in ("", chosen)}
            for uid in gone:
                del left[uid]

    def _refusal(self, line: Line, parcel: Parcel) -> str:
        """Send one parcel that another may stand for; returns why it was not taken, "" where it was."""
        for _, answer in line.send(self._intact([parcel])):
            if isinstance(answer, Unreachable):
                raise answer
            if isinstance(answer, Refused):
                return f"{answer}; segments are sent instead"
            self._judge(parcel, answer)
            return ""
        return "the stored label map is gone or changed; segments are sent instead"

    def _send_over(self, line: Line, left: dict[str, Parcel]) -> None:
        """Send what is left, and take out of it whatever was answered."""
        for one, answer in line.send(self._intact(list(left.values()), left)):
            self._judge(left.pop(one.sop_instance_uid), answer)

    def _intact(self, parcels: Sequence[Parcel], left: dict[str, Parcel] | None = None) -> Iterator[Shipment]:
        """Yield what to send; a file that is not what was written never leaves."""
        for parcel in parcels:
            path = self.settings.results_dir / parcel.path
            if path.exists() and _digest(path) == parcel.sha256:
                yield Shipment(parcel.sop_class_uid, parcel.sop_instance_uid, path)
                continue
            self._reject(parcel, "the stored result file is gone or changed; it is not sent")
            if left is not None:
                del left[parcel.sop_instance_uid]

    def _judge(self, parcel: Parcel, answer: Verdict) -> None:
        """Record what was answered of one parcel."""
        if isinstance(answer, str):
            self._delivered(parcel, answer)
        elif isinstance(answer, NotAccepted) and parcel.role not in NEEDED:
            with self.catalogue.write() as connection:
                outbox.not_taken(connection, parcel, str(answer))
                self._open_notices(connection, parcel)
            logger().warning("result_withdrawn", job=parcel.job_id, to=parcel.destination, reason=str(answer))
        elif isinstance(answer, Refused):
            self._reject(parcel, str(answer))
        else:
            self._put_off([parcel], str(answer))

    def _delivered(self, parcel: Parcel, answer: str) -> None:
        with self.catalogue.write() as connection:
            outbox.delivered(connection, parcel, answer, now(), now())
            self._open_notices(connection, parcel)
        logger().info("result_delivered", job=parcel.job_id, to=parcel.destination, answer=answer)

    def _open_notices(self, connection: Any, parcel: Parcel) -> None:
        """Open the notice of availability with the delivery that makes a job's results whole at a destination."""
        if parcel.destination in self._notified:
            notices.open_availability(connection, parcel.job_id, parcel.destination, now())

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


def _is_label_map(parcel: Parcel) -> bool:
    return parcel.variant == "labelmap" and parcel.sop_class_uid == LABEL_MAP


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

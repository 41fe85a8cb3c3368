"""Sends the chain's events to the hospital's collector as DICOM audit messages, over syslog with TLS (RFC 5425).

Syslog answers nothing. So each batch has a connection of its own, and counts as sent when the collector closed it in
order after ours was closed; what a broken connection held is sent again, and the collector may see it twice.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import Connection

from appliance.audit import record_of
from appliance.audit_message import KINDS, Place, message
from appliance.catalogue import Catalogue, audit, events, flow
from appliance.errors import DeliveryFailed, InstanceRefused
from appliance.log import logger
from appliance.process import keep_stepping
from appliance.settings import Settings

PORT = 6514  # RFC 5425 section 4.1
EVERY_S = 5.0
ANSWER_S = 15.0
BATCH = 500  # links that are looked at between two marks
SENT = "audit_sent"  # the mark: its `until` is the last link that the collector has


def start(settings: Settings, catalogue: Catalogue, stop: threading.Event) -> None:
    """Send in a thread of its own until told to stop, where a collector is named."""
    if settings.audit.syslog:
        sending = Sending(settings, catalogue)
        threading.Thread(target=keep_stepping, args=(sending.step, stop, EVERY_S), daemon=True).start()


class Sending:
    """Knows up to which link the collector has everything. From its first start on: older events are in the chain."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings, self.catalogue = settings, catalogue
        with catalogue.write() as connection:
            mark = events.last_detail(connection, SENT)
            self.until: int = mark.get("until", 0)
            if mark.get("to") != name_of(settings.audit.syslog):
                self.until = audit.head(connection)[0]
                self._mark(connection, 0)

    def step(self) -> None:
        """Send what is new; on a failure nothing is marked, and all of it goes again."""
        while True:
            with self.catalogue.read() as connection:
                links = list(islice(audit.chain(connection, self.until), BATCH))
                told = [one.event for one in links if one.event is not None and one.event["kind"] in KINDS]
                frames = [frame for one in told if (frame := self._frame(connection, one))]
            if frames and not self._sent(frames):
                return
            if not links:
                return
            self.until = links[-1].number
            if frames:
                with self.catalogue.write() as connection:
                    self._mark(connection, len(frames))

    def _mark(self, connection: Connection, count: int) -> None:
        events.record(connection, SENT, until=self.until, to=name_of(self.settings.audit.syslog), count=count)

    def _sent(self, frames: list[bytes]) -> bool:
        try:
            deliver(self.settings.audit.syslog, frames)
        except DeliveryFailed as error:
            logger().error("audit_not_sent", cause=str(error), waiting=len(frames))
            return False
        return True

    def _frame(self, connection: Connection, event: Any) -> bytes | None:
        uid = event["study_instance_uid"] or flow.study_of(connection, event["job_id"])
        place = Place(
            self.settings.appliance.name, socket.gethostname(), str(os.getpid()), self.settings.receiver.ae_title,
            uid, *(self._of_study(connection, uid) if uid else ()),
        )  # fmt: skip
        return message(record_of(event), place)

    def _of_study(self, connection: Connection, uid: str) -> tuple[str, str, str, int]:
        """Return Patient ID, sending AE title, its address and the number of images; empty where they are gone."""
        from dicom_nodes.header import read_header
        from dicom_nodes.values import text

        file, patient = flow.image_of(connection, uid), ""
        if file is not None:
            try:
                patient = text(read_header(self.settings.spool_dir / file), 0x00100020)
            except (FileNotFoundError, InstanceRefused):
                patient = ""
        sender = flow.sender_of(connection, uid) or ("", "")
        return patient, *sender, flow.count_of(connection, uid)


def deliver(collector: str, frames: list[bytes]) -> None:
    """Hand frames to a collector over a connection of their own. Raises DeliveryFailed."""
    with opened(collector) as stream:
        try:
            for part in joined(frames):
                stream.sendall(part)
            stream.unwrap().close()
        except OSError as error:
            if getattr(error, "reason", "") == "UNEXPECTED_EOF_WHILE_READING":
                return  # it closed without a word, after all was sent; a reset is another error
            raise DeliveryFailed(f"{name_of(collector)}: {error}") from None


def joined(frames: list[bytes], size: int = 65536) -> Iterator[bytes]:
    """Yield frames together, in parts of about `size` bytes."""
    part = b""
    for one in frames:
        part += one
        if len(part) >= size:
            yield part
            part = b""
    yield part


def opened(collector: str) -> ssl.SSLSocket:
    """Return a connection to `tls://host:port?ca=…&certificate=…&key=…`. Raises DeliveryFailed."""
    place, asked = urlsplit(collector), parse_qs(urlsplit(collector).query)
    ca, certificate, key = (asked.get(name, [None])[0] for name in ("ca", "certificate", "key"))
    try:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate:
            context.load_cert_chain(certificate, key)
        plain = socket.create_connection((place.hostname or "", place.port or PORT), ANSWER_S)
        try:
            return context.wrap_socket(plain, server_hostname=place.hostname)
        except OSError:
            plain.close()
            raise
    except OSError as error:
        raise DeliveryFailed(f"{name_of(collector)}: {error}") from None


def name_of(collector: str) -> str:
    """Return a collector without the files that its address names."""
    place = urlsplit(collector)
    return f"tls://{place.hostname}:{place.port or PORT}"

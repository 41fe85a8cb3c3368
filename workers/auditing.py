"""Dispatch's part in the audit: events are sealed into the chain, old ones removed, changed settings recorded.

It must never run in two processes of one appliance: the chain has one writer.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from appliance import __version__
from appliance.catalogue import Catalogue, audit, events
from appliance.catalogue.connection import now
from appliance.log import logger
from appliance.settings import Settings

SEAL_S = 2.0
REMOVE_S = 86_400.0
HEAD_S = 3600.0  # between two heads in the log, where nobody who changes the catalogue can change them
YEAR = timedelta(days=365.25)
CREDENTIALS = re.compile(r"//[^/@\s]*@")  # of a URL


class Auditing:
    """The one writer of the chain."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings, self.catalogue = settings, catalogue
        self._sealed_at = self._removed_at = self._told_at = 0.0
        with catalogue.write() as connection:
            note_settings(connection, settings)
        self._seal(all_of_them=True)

    def step(self) -> None:
        """Seal what is new; once a day remove what is older than `audit.keep_years`."""
        at = time.monotonic()
        if at - self._sealed_at > SEAL_S:
            self._sealed_at = at
            self._seal()
        if at - self._removed_at > REMOVE_S or not self._removed_at:
            self._removed_at = at
            self._remove(now())
        if at - self._told_at > HEAD_S or not self._told_at:
            self._told_at = at
            self._tell()

    def _seal(self, *, all_of_them: bool = False) -> None:
        made = audit.AT_ONCE
        while made == audit.AT_ONCE:
            with self.catalogue.write() as connection:
                made = audit.seal(connection, all_of_them=all_of_them)

    def _remove(self, at: datetime) -> None:
        with self.catalogue.write() as connection:
            count = audit.remove(connection, at - self.settings.audit.keep_years * YEAR)
        if count:
            logger().info("records_removed", count=count)

    def _tell(self) -> None:
        with self.catalogue.read() as connection:
            number, digest = audit.head(connection)
        logger().info("audit_head", number=number, head=digest.hex())


@contextmanager
def on_record(catalogue: Catalogue) -> Iterator[None]:
    """Record that dispatch, and with it the appliance, began, and that it was told to end; a kill leaves no end."""
    with catalogue.write() as connection:
        events.record(connection, "appliance_started", version=__version__)
    try:
        yield
    finally:
        with catalogue.write() as connection:
            events.record(connection, "appliance_stopped", version=__version__)


def note_settings(connection: Any, settings: Settings) -> None:
    """Record which tables of curie.toml changed since a process last read them; values are not kept, only digests."""
    digests = {name: digest_of(part) for name, part in settings.model_dump(mode="json").items()}
    before = events.last_detail(connection, "settings_changed").get("digests", {})
    changed = sorted(name for name in digests if digests[name] != before.get(name))
    if changed:
        events.record(connection, "settings_changed", tables=changed, digests=digests)


def digest_of(part: Any) -> str:
    """Return a digest of a table of settings, without the credentials that a URL may hold."""
    told = CREDENTIALS.sub("//", json.dumps(part, sort_keys=True))
    return hashlib.sha256(told.encode()).hexdigest()[:16]

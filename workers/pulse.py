"""The heartbeat of a claim: while a job runs, its lease is renewed; once it is lost, the run is told to end."""

from __future__ import annotations

import threading

from appliance.catalogue import Catalogue, jobs
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import Claim, Fenced
from appliance.errors import CurieError
from appliance.log import logger


class Stopping(CurieError):
    """The worker was told to stop; the job goes back to the queue and nobody is to blame."""


class Pulse:
    """The heartbeat of one claim: a thread renews the lease; `check` raises once the job is no longer ours."""

    def __init__(self, catalogue: Catalogue, held: Claim, stopping: threading.Event) -> None:
        self.catalogue = catalogue
        self.held = held
        self.stopping = stopping
        self._over = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def check(self) -> None:
        """Raise Fenced or Stopping when the run is to end."""
        if self._lost.is_set():
            raise Fenced(self.held.id)
        if self.stopping.is_set():
            raise Stopping("the worker was stopped")

    def _beat(self) -> None:
        wait_s = 1.0  # the first beats are close, so that a cancelled job ends soon
        while not self._over.wait(wait_s):
            try:
                with self.catalogue.write() as connection:
                    if not jobs.heartbeat(connection, self.held, now()):
                        self._lost.set()
                        return
            except Exception as error:  # noqa: BLE001 - the catalogue may be away for a while; the lease decides
                logger().warning("heartbeat_failed", job=self.held.id, cause=type(error).__name__)
            wait_s = min(wait_s * 2, jobs.LEASE_S / 4)

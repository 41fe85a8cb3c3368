"""All processes of one host, as `curie up` and `curie demo` run them."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from appliance.catalogue import Catalogue, open_catalogue, processes
from appliance.catalogue.connection import now
from appliance.errors import Missing
from appliance.log import logger
from appliance.settings import Settings
from appliance.supervisor import Child, Supervisor, claim_folder

READY_S = 60.0
BROKER_CHECK_S = 3.0


class House:
    """The supervisor with this host's children, the embedded broker among them."""

    def __init__(self, settings: Settings, file: Path, errors_to: TextIO | int | None = None) -> None:
        self.settings = settings
        self.file = file
        self.errors_to = errors_to
        self.supervisor = Supervisor([], errors_to)
        self.catalogue: Catalogue | None = None
        self._broker_checked_at = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start all, and stop all at the end of the block, whatever ends it."""
        lock = claim_folder(self.settings.data_dir)
        try:
            self.supervisor = Supervisor(_children(self.settings, self.file), self.errors_to)
            self.catalogue = open_catalogue(self.settings.catalogue_url, self.settings.data_dir, moving=True)
            self.supervisor.start()
            yield
        finally:
            self.supervisor.stop()
            self._forget_broker()
            if self.catalogue:
                self.catalogue.close()
            lock.close()

    def wait_ready(self, stop: threading.Event) -> bool:
        """Wait until every process beats and C-ECHO is answered; False when told to stop first. Raises Missing."""
        from appliance.cli.operate import answers_echo

        deadline = time.monotonic() + READY_S
        while not stop.wait(0.2):
            self.step()
            if self._all_beat() and answers_echo(self.settings):
                self.supervisor.ready = True
                return True
            if time.monotonic() > deadline:
                raise Missing(f"not ready after {READY_S:.0f} s; the lines above say which process has trouble")
        return False

    def _all_beat(self) -> bool:
        from appliance.cli.operate import is_ready

        assert self.catalogue is not None
        with self.catalogue.read() as connection:
            return is_ready(processes.listing(connection, now()), self.settings)

    def step(self) -> None:
        """Restart what died, and say how the broker is."""
        self.supervisor.step()
        if time.monotonic() - self._broker_checked_at > BROKER_CHECK_S or not self.supervisor.ready:
            self._broker_checked_at = time.monotonic()
            self._beat_for_broker()

    def _beat_for_broker(self) -> None:
        """The broker is a foreign program: its heartbeat row is written here, when it answers."""
        broker = next((c for c in self.supervisor.children if c.name == "broker"), None)
        if broker is None or broker.process is None or broker.alive is None or not broker.alive():
            return
        assert self.catalogue is not None
        try:
            with self.catalogue.write() as connection:
                processes.beat(connection, "broker", now(), pid=broker.process.pid)
        except Exception as error:  # noqa: BLE001 - the catalogue may be away for a while; children must be kept
            logger().warning("heartbeat_failed", cause=type(error).__name__)

    def _forget_broker(self) -> None:
        if self.catalogue is None:
            return
        try:
            with self.catalogue.write() as connection:
                processes.gone(connection, "broker")
        except Exception as error:  # noqa: BLE001 - ending matters more
            logger().warning("farewell_failed", cause=type(error).__name__)


def _children(settings: Settings, file: Path) -> list[Child]:
    from workers import broker

    def child(process: str, *more: str) -> Child:
        name = "-".join((process, *more[1:]))
        return Child(name, [sys.executable, "-m", "appliance.cli.main", "run", process, *more, "--config", str(file)])

    children = []
    if settings.broker.url == "embedded":
        children.append(Child("broker", broker.command(settings), alive=lambda: broker.answers(settings)))
    children += [child("receiver"), child("dispatch"), child("delivery"), child("console")]
    children += [child("worker", "--number", str(n + 1)) for n in range(settings.worker.count)]
    if importlib.util.find_spec("nvflare") is not None:
        children += [child("sidecar")] if settings.federation else []
        children += [child("coordinator")] if settings.coordinator else []
    return children

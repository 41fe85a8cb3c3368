"""What every long-running process does: settings, log, catalogue, heartbeat, an orderly end on SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from appliance.catalogue import Catalogue, open_catalogue, processes
from appliance.catalogue.connection import now
from appliance.log import logger, start_logging
from appliance.settings import Settings


@dataclass(frozen=True)
class Running:
    """A started process: its catalogue, and the event that asks it to end."""

    catalogue: Catalogue
    stop: threading.Event


@contextmanager
def running(
    name: str,
    settings: Settings,
    detail: Callable[[], dict[str, Any]] = dict,
    speaks_for: tuple[str, int] | None = None,
) -> Iterator[Running]:
    """Run the block as the process `name`; SIGTERM and SIGINT set `stop`. `detail` is shown in `curie status`.

    `speaks_for`: name and pid of a process that may have no thread to say itself that it is alive.
    """
    start_logging(name)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir, moving=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(name, catalogue, over, detail, speaks_for), daemon=True)
    beating.start()
    logger().info("started")
    try:
        yield Running(catalogue, stop)
    finally:
        over.set()
        beating.join(timeout=5)
        for one in (name, speaks_for[0]) if speaks_for else (name,):
            _forget(one, catalogue)
        logger().info("ended")
        catalogue.close()


def _beat(
    name: str,
    catalogue: Catalogue,
    over: threading.Event,
    detail: Callable[[], dict[str, Any]],
    speaks_for: tuple[str, int] | None,
) -> None:
    while True:
        try:
            told = detail()
            with catalogue.write() as connection:
                processes.beat(connection, name, now(), told)
                if speaks_for:
                    processes.beat(connection, speaks_for[0], now(), pid=speaks_for[1])
        except Exception as error:  # noqa: BLE001 - the catalogue may be away for a while
            logger().warning("heartbeat_failed", cause=type(error).__name__)
        if over.wait(processes.BEAT_S):
            return


def _forget(name: str, catalogue: Catalogue) -> None:
    try:
        with catalogue.write() as connection:
            processes.gone(connection, name)
    except Exception as error:  # noqa: BLE001 - ending matters more
        logger().warning("farewell_failed", cause=type(error).__name__)


def keep_stepping(step: Callable[[], None], stop: threading.Event, poll_s: float) -> None:
    """Call `step` again and again until told to stop; an error is logged, waited for and tried again."""
    wait_s = poll_s
    while not stop.is_set():
        try:
            step()
            wait_s = poll_s
        except Exception as error:  # noqa: BLE001 - the edge of the process: the catalogue may be away for a while
            wait_s = min(max(wait_s * 2, 1.0), 10.0)
            logger().error("step_failed", cause=type(error).__name__, again_in_s=wait_s)
        stop.wait(wait_s)

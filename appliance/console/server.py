"""`curie run console`: one port, served until SIGTERM. Where it is taken, that is said, and nobody else is held up."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from appliance.console.app import Parts, make_app, make_parts
from appliance.log import logger, start_logging
from appliance.process import running
from appliance.settings import Settings

AGAIN_S = 5.0
FAREWELL_S = 3  # for requests to end when told to stop
KEEP_ALIVE_S = 15
MOST_CONNECTIONS = 256
LONGEST_HEAD = 16 * 1024
NEARBY = ("127.0.0.1", "::1", "localhost")


def run(settings: Settings) -> None:
    """Serve the console until told to stop."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # also of the children that draw
    start_logging("console")
    listener = _listener(settings)
    place = settings.console
    if place.host not in NEARBY and not (place.url or "").startswith("https:"):
        logger().warning("console_without_tls", host=place.host, remedy="a proxy with TLS before it, and console.url")
    with running("console", settings) as process:
        parts = make_parts(settings, process.catalogue)
        server = Server(settings, parts, process.stop)
        logger().info("listening", host=place.host, port=place.port)
        server.run(sockets=[listener])


def _listener(settings: Settings) -> socket.socket:
    """Return the listening socket; waits where another program has the port, and says so once."""
    from appliance.cli.output import complain

    place, said = settings.console, False
    while True:
        try:
            return _bound(place.host, place.port)
        except OSError as error:
            if not said:
                why = f"the console cannot listen on {place.host} port {place.port}: {error.strerror}"
                complain(f"{why}; set console.host and console.port, or end the other. Everything else goes on")
                logger().error("console_waits_for_port", host=place.host, port=place.port, cause=error.strerror)
            said = True
            time.sleep(AGAIN_S)


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


class Server(uvicorn.Server):
    """uvicorn that ends when told to, with its open streams."""

    def __init__(self, settings: Settings, parts: Parts, stop: threading.Event) -> None:
        self._parts = parts
        self._stop = stop
        behind_proxy = settings.console.url is not None
        super().__init__(
            uvicorn.Config(
                make_app(parts),
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=behind_proxy,
                forwarded_allow_ips="127.0.0.1,::1" if behind_proxy else "",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=FAREWELL_S,
                limit_concurrency=MOST_CONNECTIONS,
                h11_max_incomplete_event_size=LONGEST_HEAD,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `running`."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Look whether to end; streams end first, or the requests that hold them never would."""
        if self._stop.is_set():
            self._parts.close()
            return True
        return await super().on_tick(counter)

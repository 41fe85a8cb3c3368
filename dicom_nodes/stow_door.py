"""The listening side of STOW-RS: one thread with an event loop, uvicorn's HTTP on connections that we accept ourselves.

uvicorn alone would let silent peers stay for ever before their request and hide their certificates. Here connections
are counted before anything is read, TLS and requests have deadlines, and `X-Forwarded-For` is nobody's word.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from appliance.log import logger
from dicom_nodes.acceptor import ALIVE_S, MOST_IDS, Acceptor, fingerprint
from dicom_nodes.arrivals import AssociationOpened, AssociationsAlive
from dicom_nodes.lobby import HANDSHAKE_S, SETUP_S
from dicom_nodes.stow import Stow

MOST_CONNECTIONS = 128
LONGEST_HEAD = 16 * 1024  # bytes of a request's line and headers
KEEP_ALIVE_S = 5  # between two requests of one connection
FAREWELL_S = 1  # for requests to end when told to stop


class StowDoor:
    """Serves one listening socket until stopped. `tls`: only with a certificate of the CA."""

    def __init__(self, acceptor: Acceptor, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._server = _Server(acceptor, listener, tls)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[])
        except Exception as error:  # noqa: BLE001 - the edge of this thread
            logger().error("stow_ended", cause=type(error).__name__)

    def stop(self) -> None:
        """Stop accepting; requests have seconds to end."""
        self._server.should_exit = True
        self._thread.join(timeout=FAREWELL_S + 2)


class _Server(uvicorn.Server):
    """uvicorn without its own listening."""

    def __init__(self, acceptor: Acceptor, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._acceptor = acceptor
        self._listener = listener
        self._tls = tls
        self._app = Stow(acceptor)
        self._connections: Counter[str] = Counter()  # by address
        super().__init__(
            uvicorn.Config(
                self._app,
                loop="asyncio",
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=FAREWELL_S,
                h11_max_incomplete_event_size=LONGEST_HEAD,
            )
        )

    async def main_loop(self) -> None:
        """Accept, and tell who is there, until told to stop."""
        self._listener.setblocking(False)
        tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._say_alive())]
        try:
            await super().main_loop()
        finally:
            for one in tasks:
                one.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the requests end, or end them; then the threads that write."""
        await super().shutdown(sockets)
        self._app.close()

    async def _say_alive(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_S)
            peers = list(self._app.open.values())
            for peer in peers:  # an indexer that began anew may not know them
                self._acceptor.put(AssociationOpened(peer.id, peer.ae_title, peer.address))
            for at in range(0, len(peers), MOST_IDS):
                self._acceptor.put(AssociationsAlive(tuple(peer.id for peer in peers[at : at + MOST_IDS])))
            for one in list(self.server_state.connections):
                one.cut_if_stuck()  # type: ignore[union-attr]

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        welcomes: set[asyncio.Task[None]] = set()
        while True:
            try:
                connection, peer = await loop.sock_accept(self._listener)
            except OSError as error:  # out of descriptors: leave the others a moment to end
                logger().error("accept_failed", cause=error.strerror)
                await asyncio.sleep(0.05)
                continue
            address = str(peer[0]).removeprefix("::ffff:")
            if not self._may_come(address):
                self._acceptor.count("too many connections of this address")
                connection.close()
                continue
            self._connections[address] += 1
            welcome = loop.create_task(self._welcome(connection, address))
            welcomes.add(welcome)
            welcome.add_done_callback(welcomes.discard)
            await asyncio.sleep(0)  # those who are there already have their turn

    def _may_come(self, address: str) -> bool:
        few = self._connections[address] < self._acceptor.settings.receiver.max_associations_per_address
        listed = few or self._acceptor.admission.is_listed_address(address)
        return listed and self._connections.total() < MOST_CONNECTIONS

    async def _welcome(self, connection: socket.socket, address: str) -> None:
        """Let one connection in, TLS first."""
        leave = _once(partial(self._leave, address))
        limits: dict[str, Any] = {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": 1} if self._tls else {}
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(partial(self._protocol, leave), connection, ssl=self._tls, **limits)
        except OSError:  # ssl.SSLError, ConnectionError, and what the handshake's deadline raises
            self._acceptor.count("TLS handshake failed")
            connection.close()
            leave()

    def _leave(self, address: str) -> None:
        self._connections[address] -= 1
        if not self._connections[address]:
            del self._connections[address]

    def _protocol(self, leave: Callable[[], None]) -> _Protocol:
        loop = asyncio.get_running_loop()
        protocol = _Protocol(self.config, self.server_state, {}, loop)
        protocol.leave = leave
        return protocol


def _once(action: Callable[[], None]) -> Callable[[], None]:
    """Return a function that acts when it is called first."""
    left = [action]

    def act() -> None:
        while left:
            left.pop()()

    return act


class _Protocol(H11Protocol):
    """One connection: with the fingerprint of its certificate, and a deadline for each request's head."""

    leave: Callable[[], None]
    _late: asyncio.TimerHandle | None = None
    _stuck = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note who it is."""
        super().connection_made(transport)
        self.app_state = {"fingerprint": fingerprint(transport.get_extra_info("ssl_object"))}
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take some bytes."""
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        """Have a deadline exactly while a request is expected or in its head."""
        waiting = self.cycle is None or self.cycle.response_complete
        if not waiting and self._late is not None:
            self._late.cancel()
            self._late = None
        elif waiting and self._late is None:
            self._late = self.loop.call_later(SETUP_S, self._cut)

    def _cut(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def cut_if_stuck(self) -> None:
        """Cut a connection whose peer did not read our answer since this was asked last."""
        if self._stuck:
            self.transport.abort()
        self._stuck = self.flow.write_paused or self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the connection's number back."""
        if self._late is not None:
            self._late.cancel()
        with suppress(Exception):  # h11 objects to odd endings; the number must come back
            super().connection_lost(exc)
        self.leave()

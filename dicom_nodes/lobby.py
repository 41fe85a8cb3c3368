"""Where connections wait until their A-ASSOCIATE-RQ is whole: one thread, no call that blocks, bounded memory.

Nobody who says little, slowly or nonsense costs a thread or keeps another one waiting: TLS handshakes and requests go
on side by side, each with a deadline; when the lobby is full, the oldest of the address that has most of it goes.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from appliance.log import logger
from dicom_nodes import pdu
from dicom_nodes.connection import CLOSE_BYTES, close

SETUP_S = 10.0  # ARTIM: from the connection to a whole A-ASSOCIATE-RQ
HANDSHAKE_S = 5.0  # TLS, within that
LEAVE_S = 1.0  # for a peer to read our A-ASSOCIATE-RJ or A-ABORT and close
MOST = 256  # connections in the lobby
MOST_BYTES = 4 * 1024 * 1024  # of incomplete requests together
BACKLOG = 128
ACCEPTS = 32  # connections taken in one turn

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Guest:
    """One connection that has not been let in."""

    def __init__(self, connection: Any, address: str, handshake: bool) -> None:
        self.connection = connection
        self.address = address
        self.handshake = handshake  # of TLS, still to be done
        self.leaving = False
        self.ignored = 0  # bytes that came while leaving
        self.request = bytearray()
        self.came = time.monotonic()
        self.deadline = self.came + (HANDSHAKE_S if handshake else SETUP_S)

    @property
    def needed(self) -> int:
        """Bytes of the request still to come. Raises BadPDU for what is no A-ASSOCIATE-RQ."""
        if len(self.request) < pdu.HEADER.size:
            return pdu.HEADER.size - len(self.request)
        kind, length = pdu.HEADER.unpack_from(self.request)
        if kind != pdu.ASSOCIATE_RQ:
            known = pdu.ASSOCIATE_RQ <= kind <= pdu.ABORT
            raise pdu.BadPDU("not an A-ASSOCIATE-RQ", pdu.UNEXPECTED if known else pdu.UNRECOGNIZED)
        if not 68 <= length <= pdu.MAXIMUM_REQUEST:
            raise pdu.BadPDU("an A-ASSOCIATE-RQ of no possible length")
        return pdu.HEADER.size + int(length) - len(self.request)


class Lobby:
    """Accepts at one listening socket and hands whole requests to `admit`, which must be quick.

    `admit(connection, address, request)` takes the connection over and returns nothing, or returns the bytes with
    which to send it away. `may_wait(address, waiting)` says whether one more connection of an address may come in.
    """

    def __init__(
        self,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        admit: Callable[[Any, str, bytes], bytes | None],
        may_wait: Callable[[str, int], bool],
        refused: Callable[[str], None],
    ) -> None:
        self.listener = listener
        self.tls = tls
        self.admit = admit
        self.may_wait = may_wait
        self.refused = refused
        self._guests: set[Guest] = set()
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, READ, None)

    def run(self, stop: threading.Event) -> None:
        """Serve until told to stop."""
        while not stop.is_set():
            for key, _ in self._selector.select(timeout=0.25):
                if key.data is None:
                    self._accept()
                elif key.data in self._guests:
                    self._serve(key.data)
            self._send_late_ones_away()
        for guest in list(self._guests):
            self._remove(guest, "")
        self._selector.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                connection, peer = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # out of descriptors: leave the others a moment to end
                logger().error("accept_failed", cause=error.strerror)
                time.sleep(0.05)
                return
            self._welcome(connection, str(peer[0]).removeprefix("::ffff:"))

    def _welcome(self, connection: socket.socket, address: str) -> None:
        if not self.may_wait(address, sum(guest.address == address for guest in self._guests)):
            self.refused("too many connections of this address")
            close(connection)
            return
        self._make_room()
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError:  # gone already
            close(connection)
            return
        guest = Guest(connection, address, handshake=self.tls is not None)
        self._guests.add(guest)
        self._selector.register(connection, READ, guest)
        self._serve(guest)

    def _make_room(self) -> None:
        """Send somebody away when the lobby, or its memory, is full."""
        if len(self._guests) >= MOST:
            most = Counter(guest.address for guest in self._guests).most_common(1)[0][0]
            self._remove(min((g for g in self._guests if g.address == most), key=lambda g: g.came), "lobby full")
        while sum(len(guest.request) for guest in self._guests) > MOST_BYTES:
            self._remove(max(self._guests, key=lambda g: len(g.request)), "lobby full")

    def _serve(self, guest: Guest) -> None:
        """Go on with one connection as far as it goes without waiting."""
        try:
            if guest.handshake and not self._shake_hands(guest):
                return
            self._read(guest)
        except pdu.BadPDU as bad:
            self._send_away(guest, pdu.encode_abort(bad.reason), str(bad))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return
        except ssl.SSLError:
            self._remove(guest, "TLS handshake failed" if guest.handshake else "connection lost")
        except OSError:
            self._remove(guest, "" if guest.leaving else "connection lost before a request")

    def _shake_hands(self, guest: Guest) -> bool:
        """Return whether the handshake is done."""
        try:
            guest.connection.do_handshake()
        except ssl.SSLWantWriteError:
            self._selector.modify(guest.connection, READ | WRITE, guest)
            return False
        except ssl.SSLWantReadError:
            self._selector.modify(guest.connection, READ, guest)
            return False
        self._selector.modify(guest.connection, READ, guest)
        guest.handshake = False
        guest.deadline = guest.came + SETUP_S
        return True

    def _read(self, guest: Guest) -> None:
        if guest.leaving:
            content = guest.connection.recv(65536)
            guest.ignored += len(content)
            if not content or guest.ignored > CLOSE_BYTES:
                self._remove(guest, "")
            return
        while guest in self._guests and (needed := guest.needed):
            content = guest.connection.recv(min(needed, 65536))
            if not content:
                self._remove(guest, "connection lost before a request")
                return
            guest.request += content
            self._make_room()
        if guest in self._guests:
            self._let_in(guest)

    def _let_in(self, guest: Guest) -> None:
        self._selector.unregister(guest.connection)
        try:
            answer = self.admit(guest.connection, guest.address, bytes(guest.request[pdu.HEADER.size :]))
        except pdu.BadPDU:
            self._selector.register(guest.connection, READ, guest)
            raise
        if answer is None:
            self._guests.discard(guest)
            return
        self._selector.register(guest.connection, READ, guest)
        self._send_away(guest, answer, "")

    def _send_away(self, guest: Guest, last_words: bytes, reason: str) -> None:
        """Say why, then wait a moment for the peer to close, so that it can read it (Sta13)."""
        if reason:
            self.refused(reason)
        guest.leaving = True
        guest.request.clear()
        guest.deadline = time.monotonic() + LEAVE_S
        try:
            guest.connection.send(last_words)
            if not isinstance(guest.connection, ssl.SSLSocket):
                guest.connection.shutdown(socket.SHUT_WR)
        except OSError:
            self._remove(guest, "")

    def _send_late_ones_away(self) -> None:
        now = time.monotonic()
        for guest in [guest for guest in self._guests if guest.deadline < now]:
            self._remove(guest, "" if guest.leaving else "no request in time")

    def _remove(self, guest: Guest, reason: str) -> None:
        if reason:
            self.refused(reason)
        self._guests.discard(guest)
        with suppress(KeyError, ValueError):
            self._selector.unregister(guest.connection)
        close(guest.connection)

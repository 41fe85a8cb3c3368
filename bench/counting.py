"""A door between a site and its coordinator that lets everything through and counts the bytes each way."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class CountingDoor:
    """Listens on a port of loopback and passes on to another."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.up = self.down = 0  # bytes from the site, and to it
        self.counting = threading.Lock()  # a site has several connections
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        self.listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inside, _ = self.listening.accept()
                threading.Thread(target=self._join, args=(inside,), daemon=True).start()

    def _join(self, inside: socket.socket) -> None:
        try:
            outside = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            inside.close()
            return
        outside.settimeout(None)
        threading.Thread(target=self._carry, args=(inside, outside, "up"), daemon=True).start()
        self._carry(outside, inside, "down")

    def _carry(self, one: socket.socket, other: socket.socket, way: str) -> None:
        with suppress(OSError):
            while piece := one.recv(65536):
                with self.counting:
                    setattr(self, way, getattr(self, way) + len(piece))
                other.sendall(piece)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

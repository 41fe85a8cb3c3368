"""A receiver of HL7 messages on loopback, over MLLP: it answers as a test wants it, and remembers what came."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

START, END = b"\x0b", b"\x1c\r"
Answer = bytes | None  # None: it says nothing, and keeps the connection open


def acknowledged(code: str) -> Callable[[bytes], Answer]:
    """Return an answer with this code to whatever comes."""
    return lambda content: block(acknowledgement(content, code))


def acknowledgement(content: bytes, code: str, control_id: str = "") -> bytes:
    """Return the acknowledgement of a message (HL7 v2.5.1 Section 2.9.2)."""
    named = control_id or content.split(b"|")[9].decode()
    head = "MSH|^~\\&|RIS|H|PETITE-CURIE|H|20260101||ACK^R01^ACK|1|P|2.5.1"
    return f"{head}\rMSA|{code}|{named}\r".encode()


def block(content: bytes) -> bytes:
    """Return what goes over the wire."""
    return START + content + END


@dataclass
class Listener:
    """Listens from start to stop."""

    answer: Callable[[bytes], Answer] = field(default_factory=lambda: acknowledged("AA"))
    tls: tuple[str, str] | None = None  # certificate, key
    messages: list[bytes] = field(default_factory=list)
    port: int = 0

    def start(self) -> None:
        """Listen on loopback."""
        self._over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", self.port))
        self._socket.settimeout(0.05)
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._over.set()
        self._thread.join(timeout=5)
        self._socket.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            with suppress(OSError):  # a peer that goes away, or does not trust us
                connection, _ = self._socket.accept()
                connection.settimeout(5)
                with self._secured(connection) as secured:
                    self._take(secured)

    def _secured(self, connection: socket.socket) -> socket.socket:
        if self.tls is None:
            return connection
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.tls)
        return context.wrap_socket(connection, server_side=True)

    def _take(self, connection: socket.socket) -> None:
        found = b""
        while END not in found:
            piece = connection.recv(65536)
            if not piece:
                return
            found += piece
        content = found.removeprefix(START).split(END)[0]
        self.messages.append(content)
        answer = self.answer(content)
        if answer is None:
            self._over.wait(5)
            return
        connection.sendall(answer)

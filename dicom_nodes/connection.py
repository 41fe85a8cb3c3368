"""A peer's socket, plain or TLS: set up so that nothing waits for ever, and closed so that last words arrive."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from typing import Any

TICK_S = 0.5  # how often a silent association looks at its deadlines
CLOSE_S = 1.0  # ARTIM: for the peer to close after the last PDU
CLOSE_BYTES = 1024 * 1024  # of what still comes meanwhile
SEND_S = 10.0  # for a peer to read our answers


def prepare(connection: Any, send_s: float = SEND_S) -> None:
    """Set the socket up: answers leave at once, and no call waits longer than a tick to look at the deadlines."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(connection, "cipher"):  # TLS: its own record loop needs Python's timeout
        connection.settimeout(TICK_S)
        return
    connection.setblocking(True)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(TICK_S))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(send_s))


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))


def quick_acknowledge(connection: Any) -> None:
    """Acknowledge what came at once: a peer with Nagle's algorithm on waits for that (it resets itself)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def farewell(connection: Any) -> None:
    """Sta13: ignore what still comes until the peer closes (AA-6), within ARTIM and a megabyte; then close."""
    deadline, left = time.monotonic() + CLOSE_S, CLOSE_BYTES
    while left > 0 and time.monotonic() < deadline:
        try:
            content = connection.recv(65536)
        except (BlockingIOError, TimeoutError):
            continue
        except OSError:
            break
        if not content:
            break
        left -= len(content)
    close(connection)


def close(connection: Any) -> None:
    """Close a socket, whatever state it is in."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

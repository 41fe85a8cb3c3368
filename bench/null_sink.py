"""A Storage SCP that keeps nothing: it walks over the PDUs and answers 0x0000. It shows what the sender can do.

It must never be taken for a receiver: no negotiation, no limits, no timeouts.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading

from bench import pdus
from bench.pdus import Broken

BUFFER = 1 << 20


def serve(connection: socket.socket) -> None:
    """Answer one association until it ends."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            _, request = pdus.read_pdu(connection)
            connection.sendall(pdus.associate_ac(request))
            _answer(connection)
        except (OSError, Broken):
            return


def _answer(connection: socket.socket) -> None:
    """Receive into one buffer, read the PDU headers in it, keep command sets, skip datasets."""
    buffer = bytearray(BUFFER)
    view, filled, command = memoryview(buffer), 0, b""
    while got := connection.recv_into(view[filled:]):
        filled, at = filled + got, 0
        while filled - at >= 12:
            (length,) = struct.unpack_from(">I", buffer, at + 2)
            if filled - at < 6 + length:
                break
            _, _, control = struct.unpack_from(">IBB", buffer, at + 6)  # one PDV in each PDU: our sender's way
            if control & pdus.COMMAND:
                command = bytes(view[at + 12 : at + 6 + length])
            if control & pdus.LAST and (not control & pdus.COMMAND or _is_whole(command)):
                connection.sendall(pdus.response(pdus.elements(command)))
            at += 6 + length
        if filled - at >= 10 and buffer[at] == pdus.RELEASE_RQ:
            connection.sendall(pdus.pdu(pdus.RELEASE_RP, bytes(4)))
            return
        buffer[: filled - at] = buffer[at:filled]
        filled -= at


def _is_whole(command: bytes) -> bool:
    """Return whether no dataset follows the command."""
    return bool(struct.unpack("<H", pdus.elements(command)[0x0800])[0] == pdus.NO_DATASET)


def main() -> None:
    """Listen on the port given, one thread an association."""
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64) as listening:
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()

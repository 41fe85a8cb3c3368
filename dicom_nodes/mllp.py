"""MLLP, HL7's minimal lower layer: one message out, its acknowledgement back.

It must never log, nor repeat in what it raises, anything that either message says: both may name patients.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.errors import Refused, Unreachable
from appliance.settings import MessageReceiver
from dicom_nodes.web import trusting

START, END = b"\x0b", b"\x1c\r"
CONNECT_S, ANSWER_S = 10.0, 30.0
LONGEST_ANSWER = 1024 * 1024  # bytes
ACCEPTED, ERROR, REJECTED = ("AA", "CA"), ("AE", "CE"), ("AR", "CR")  # HL7 table 0008


def send(receiver: MessageReceiver, content: str, control_id: str) -> str:
    """Send one message and return its acknowledgement code. Raises Unreachable, and Refused for AR."""
    with _connected(receiver) as connection:
        connection.settimeout(ANSWER_S)
        connection.sendall(START + content.encode() + END)
        answer = _read(receiver, connection)
    return _judged(receiver, answer, control_id)


def probe(receiver: MessageReceiver) -> str:
    """Connect, TLS included, and send nothing: a message would have to name a patient. Raises Unreachable."""
    with _connected(receiver):
        return "takes connections over TLS" if receiver.tls else "takes connections"


@contextmanager
def _connected(receiver: MessageReceiver) -> Iterator[socket.socket]:
    """Open a connection for the block. Raises Unreachable, whatever breaks on it."""
    try:
        plain = socket.create_connection((receiver.host, receiver.port), CONNECT_S)
        with plain, _secured(receiver, plain) as connection:
            yield connection
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"{receiver.name}: its certificate is not trusted ({error.verify_message}); see ca") from None
    except OSError as error:
        where = f"{receiver.host}:{receiver.port}"
        raise Unreachable(f"{receiver.name} does not answer at {where} ({type(error).__name__})") from None


def _secured(receiver: MessageReceiver, plain: socket.socket) -> socket.socket:
    if not receiver.tls:
        return plain
    return trusting(receiver.name, receiver.ca).wrap_socket(plain, server_hostname=receiver.host)


def _read(receiver: MessageReceiver, connection: socket.socket) -> str:
    """Read one whole block, in ANSWER_S at most however it drips."""
    deadline = time.monotonic() + ANSWER_S
    found = b""
    while END not in found:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = connection.recv(65536)
        if not piece:
            raise Unreachable(f"{receiver.name} ended the connection before it acknowledged")
        found += piece
        if len(found) > LONGEST_ANSWER:
            raise Unreachable(f"{receiver.name} sends an acknowledgement without end")
    return found.split(END)[0].removeprefix(START).decode(errors="replace")


def _judged(receiver: MessageReceiver, answer: str, control_id: str) -> str:
    """Return the code of an acknowledgement of this very message (MSA-1, MSA-2). Raises Refused or Unreachable."""
    found = [one.split(answer[3:4] or "|") for one in answer.replace("\n", "\r").split("\r") if one.startswith("MSA")]
    code, of = (found[0] + ["", "", ""])[1:3] if answer.startswith("MSH") and found else ("", "")
    if of != control_id or code not in (*ACCEPTED, *ERROR, *REJECTED):
        raise Unreachable(f"{receiver.name} sent something that acknowledges no message of ours")
    if code in REJECTED:
        raise Refused(f"{receiver.name} rejected the message ({code})")
    if code in ERROR:
        raise Unreachable(f"{receiver.name} could not process the message ({code})")
    return code

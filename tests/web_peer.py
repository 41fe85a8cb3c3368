"""A peer of the HTTP door: Store requests, whole or as torn and slow as a test wants them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_nodes.services import Accepted, file_head
from tests.raw_peer import EXPLICIT, MR

BOUNDARY = "a-boundary"
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def instance(uid: str, content: bytes = b"\x08\0\x60\0CS\2\0MR", sop_class: str = MR, syntax: str = EXPLICIT) -> bytes:
    """Return a Part 10 file whose data set is anything."""
    return file_head(Accepted(sop_class, syntax), uid) + content


def part(content: bytes, headers: str = "Content-Type: application/dicom\r\n") -> bytes:
    """Return one part with the boundary before it."""
    return f"\r\n--{BOUNDARY}\r\n{headers}\r\n".encode() + content


def body(files: Sequence[bytes], close: str = f"\r\n--{BOUNDARY}--\r\n") -> bytes:
    """Return a whole body."""
    return b"".join(part(one) for one in files) + close.encode()


def head(length: int | None, path: str = "/studies", more: str = "") -> bytes:
    """Return the head of a request; no length: it is chunked."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: curie\r\nContent-Type: {TYPE}\r\n{framing}\r\n{more}\r\n".encode()


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def dataset(self) -> dict[str, Any]:
        """The DICOM JSON of it."""
        assert self.headers["content-type"] == "application/dicom+json"
        found: dict[str, Any] = json.loads(self.content)
        return found

    def uids(self, sequence: str) -> list[str]:
        """The SOP Instance UIDs of a sequence."""
        items = self.dataset.get(sequence, {}).get("Value", [])
        return [one["00081155"]["Value"][0] for one in items]

    def reasons(self, sequence: str) -> list[int]:
        """The failure reasons of a sequence."""
        items = self.dataset.get(sequence, {}).get("Value", [])
        return [one["00081197"]["Value"][0] for one in items]


def read(connection: http.client.HTTPConnection) -> Answer:
    """Return the next answer of a connection."""
    response = connection.getresponse()
    content = response.read()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)


def post(
    port: int,
    content: bytes | Iterable[bytes],
    path: str = "/studies",
    headers: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    method: str = "POST",
    source: str = "127.0.0.1",
) -> Answer:
    """Send one request; an iterable is sent chunked."""
    where = ("127.0.0.1", port)
    connection = (
        http.client.HTTPSConnection(*where, timeout=10, context=tls, source_address=(source, 0))
        if tls
        else http.client.HTTPConnection(*where, timeout=10, source_address=(source, 0))
    )
    try:
        connection.request(method, path, body=content, headers={"Content-Type": TYPE, **(headers or {})})
        return read(connection)
    finally:
        connection.close()


def raw(port: int, *pieces: bytes) -> socket.socket:
    """Return a connection over which these bytes were sent, each by itself."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for one in pieces:
        connection.sendall(one)
    return connection


def answer_of(connection: socket.socket) -> Answer:
    """Return what comes back over a raw connection."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    content = response.read()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

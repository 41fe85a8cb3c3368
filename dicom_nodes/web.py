"""HTTP as a client: one request, one connection, whole answers. Of DICOMweb it knows no more than JSON.

It must never follow a redirect, take a secret from anywhere but its file, nor say one: what is raised names the peer
and what it answered, never a header.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from appliance.errors import Refused, Unreachable
from appliance.outward import WebPeer

TIMEOUT_S = 120.0  # for each read or write
CONNECT_S = 10.0
LONGEST_ANSWER = 32 * 1024 * 1024  # bytes
JSON = "application/dicom+json"
MAY_PASS = frozenset({408, 423, 425, 429, 500, 502, 503, 504, 507})


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """Return the body as JSON. Raises ValueError."""
        return json.loads(self.content)


@dataclass(frozen=True)
class Body:
    """What is sent: pieces made as they are needed, and how many bytes they are."""

    length: int
    pieces: Iterable[bytes]
    media_type: str


def json_body(value: Any) -> Body:
    """Return a value as DICOM JSON (PS3.18 Annex F)."""
    content = json.dumps(value).encode()
    return Body(len(content), [content], JSON)


def ask(
    peer: WebPeer,
    url: str,
    method: str,
    path: str,
    body: Body | None = None,
    query: Iterable[tuple[str, str]] = (),
) -> Answer:
    """Send one request below the peer's address and return the answer, whatever its status. Raises Unreachable."""
    place = urlsplit(url)
    headers = {"Accept": JSON, "Connection": "close", **_authorization(peer)}
    if body is not None:
        headers |= {"Content-Type": body.media_type, "Content-Length": str(body.length)}
    target = place.path.rstrip("/") + path + (f"?{urlencode(list(query))}" if query else "")
    connection = _connection(peer, place.scheme, place.hostname or "", place.port)
    try:
        connection.connect()
        if connection.sock is not None:
            connection.sock.settimeout(TIMEOUT_S)
        return _exchange(connection, method, target, headers, body)
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"{peer.name}: its certificate is not trusted ({error.verify_message}); see ca") from None
    except ssl.SSLError as error:
        raise Unreachable(f"{peer.name}: TLS failed ({error.reason})") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{peer.name} does not answer at {url} ({type(error).__name__})") from None
    finally:
        connection.close()


def _exchange(
    connection: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str], body: Body | None
) -> Answer:
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it has read everything
        connection.endheaders()
        for piece in body.pieces if body else ():
            connection.send(piece)
    response = connection.getresponse()
    content = response.read(LONGEST_ANSWER + 1)
    if len(content) > LONGEST_ANSWER:
        raise http.client.HTTPException("the answer is too long")
    return Answer(response.status, content, {name.lower(): value for name, value in response.getheaders()})


def _connection(peer: WebPeer, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=CONNECT_S)
    return http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=trusting(peer.name, peer.ca))


def trusting(name: str, ca: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's CAs and one more. Raises Unreachable."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        try:
            context.load_verify_locations(cafile=str(ca))
        except OSError:  # ssl.SSLError is one
            raise Unreachable(f"{name}: {ca} (its ca) cannot be read as certificates") from None
    return context


def _authorization(peer: WebPeer) -> dict[str, str]:
    """Return the header that the file of `auth` makes, read at each use: a token may be renewed. Raises Unreachable."""
    if not peer.auth:
        return {}
    kind, _, path = peer.auth.partition(":")
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise Unreachable(f"{peer.name}: {path} (its auth) cannot be read") from None
    if not secret or not secret.isprintable() or (kind == "bearer" and (not secret.isascii() or " " in secret)):
        raise Unreachable(f"{peer.name}: {path} (its auth) holds no {'token' if kind == 'bearer' else 'user:password'}")
    if kind == "basic":
        if ":" not in secret:
            raise Unreachable(f"{peer.name}: {path} (its auth) holds no user:password")
        return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
    return {"Authorization": f"Bearer {secret}"}


def refusal(peer: WebPeer, status: int, what: str) -> Refused | Unreachable:
    """Return what a status that is no success means. `what`: the service that was asked for."""
    if status in MAY_PASS:
        return Unreachable(f"{peer.name} answered {status}")
    texts = {
        401: "it does not accept the credentials of auth" if peer.auth else "it wants credentials; set auth",
        403: "these credentials may not do that there" if peer.auth else "it wants credentials; set auth",
        404: f"{what} is not there; check url",
        405: f"{what} is not there; check url",
        413: "too large for it",
        415: "it does not take this media type",
        501: f"{what} is not there; check url",
    }
    elsewhere = "it points elsewhere; give that address as url" if 300 <= status < 400 else "it refuses"
    return Refused(f"{peer.name} answered {status}: {texts.get(status, elsewhere)}", status)

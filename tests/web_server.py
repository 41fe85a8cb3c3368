"""A web server on loopback that answers as a test wants it, over HTTP or TLS, and remembers what it was asked."""

from __future__ import annotations

import email
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydicom import dcmread


@dataclass(frozen=True)
class Request:
    """One request that came."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    content: bytes

    def parts(self) -> list[bytes]:
        """Return the parts of a multipart body."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + self.content)
        return [part.get_payload(decode=True) for part in message.get_payload()]  # type: ignore[union-attr,misc]


Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]  # status, JSON or bytes, headers


@dataclass
class WebServer:
    """Serves from start to stop."""

    answer: Callable[[Request], Reply]
    tls: tuple[str, str] | None = None  # certificate, key
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    def start(self) -> None:
        """Listen on loopback."""
        mine = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                place = urlsplit(self.path)
                content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, place.path, parse_qsl(place.query), headers, content)
                mine.requests.append(request)
                status, found, *more = mine.answer(request)
                body = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(more[0] if more else {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_OPTIONS = answer

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Answering)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/dicom-web"


def references(request: Request) -> list[dict[str, Any]]:
    """Return the items of a response that name the instances of a request."""
    found = []
    for part in request.parts():
        meta = dcmread(BytesIO(part), stop_before_pixels=True)
        found.append(
            {
                "00081150": {"vr": "UI", "Value": [str(meta.SOPClassUID)]},
                "00081155": {"vr": "UI", "Value": [str(meta.SOPInstanceUID)]},
            }
        )
    return found


def response(stored: list[dict[str, Any]], failed: list[dict[str, Any]] = []) -> dict[str, Any]:  # noqa: B006
    """Return a Store Instances Response."""
    found = {}
    if stored:
        found["00081199"] = {"vr": "SQ", "Value": stored}
    if failed:
        found["00081198"] = {"vr": "SQ", "Value": failed}
    return found


def failing(item: dict[str, Any], reason: int) -> dict[str, Any]:
    """Return the item with a failure reason."""
    return {**item, "00081197": {"vr": "US", "Value": [reason]}}


def warned(item: dict[str, Any], reason: int) -> dict[str, Any]:
    """Return the item with a warning reason."""
    return {**item, "00081196": {"vr": "US", "Value": [reason]}}

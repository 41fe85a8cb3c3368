"""A small OpenID provider on loopback, with real keys and PKCE, that can be told to lie."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

Lie = Callable[[dict[str, Any]], Any]


class IdentityProvider:
    """What it knows: its key, who logs in, and how it lies."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.key: Any = RSAKey.generate_key(2048, {"kid": "1"}, private=True)
        self.signs_by: Any = None  # another key than the one it shows
        self.person: dict[str, Any] = {"sub": "42", "preferred_username": "anna", "groups": ["radiology"]}
        self.lie: Lie = lambda claims: None
        self.header = {"alg": "RS256", "kid": "1"}
        self.issuer = url
        self._asked: dict[str, dict[str, str]] = {}

    def renew_key(self) -> None:
        """Have another key from now on."""
        self.key = ECKey.generate_key("P-256", {"kid": "2"}, private=True)
        self.header = {"alg": "ES256", "kid": "2"}

    async def about(self, request: Request) -> Response:
        ends = {"authorization_endpoint": "auth", "token_endpoint": "token", "jwks_uri": "keys"}
        return JSONResponse({"issuer": self.issuer, **{name: f"{self.url}/{end}" for name, end in ends.items()}})

    async def keys(self, request: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def auth(self, request: Request) -> Response:
        code = secrets.token_hex(8)
        self._asked[code] = dict(request.query_params)
        back = {"code": code, "state": request.query_params["state"]}
        return RedirectResponse(f"{request.query_params['redirect_uri']}?{urlencode(back)}", 303)

    async def token(self, request: Request) -> Response:
        form = {name: found[0] for name, found in parse_qs((await request.body()).decode()).items()}
        asked = self._asked.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        proof = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        known = "Basic " + base64.b64encode(b"curie:the secret").decode()
        if asked is None or asked.get("code_challenge") != proof or request.headers.get("authorization") != known:
            return JSONResponse({"error": "invalid_grant"}, 400)
        at = int(time.time())
        claims = {**self.person, "iss": self.url, "aud": "curie", "nonce": asked["nonce"], "iat": at, "exp": at + 300}
        self.lie(claims)
        if self.header["alg"] == "none":
            parts = (json.dumps(part).encode() for part in (self.header, claims))
            signed = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."
        else:
            signed = jwt.encode(self.header, claims, self.signs_by or self.key, algorithms=["RS256", "ES256", "HS256"])
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": signed})


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    """Serve a provider until the end of the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    one = IdentityProvider(f"http://127.0.0.1:{listener.getsockname()[1]}")
    routes = [
        Route("/.well-known/openid-configuration", one.about),
        Route("/keys", one.keys),
        Route("/auth", one.auth),
        Route("/token", one.token, methods=["POST"]),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()

"""Login by OpenID Connect, with the hospital's own accounts: authorization code with PKCE, believed when it is signed.

Roles come from the provider's groups, as the settings map them. It must never log a token, nor let anybody in whose
groups give no role.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.console.access import new_token
from appliance.errors import CurieError, Missing, SettingsError
from appliance.passwords import ROLES
from appliance.setting_types import Oidc

WAIT_S = 10.0  # for an answer of the provider
KEPT_S = 3600.0  # what it says of itself, and its keys
LEEWAY_S = 60  # between its clock and ours
SIGNED_BY = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"]


@dataclass(frozen=True)
class Begun:
    """A login that was begun: what its end must match."""

    state: str
    nonce: str
    verifier: str

    @property
    def text(self) -> str:
        """What the browser keeps meanwhile."""
        return f"{self.state}.{self.nonce}.{self.verifier}"


@dataclass(frozen=True)
class Person:
    """Whom the provider vouches for; `role` "": no group of theirs has one."""

    name: str
    role: str


def begun_from(text: str) -> Begun | None:
    """Return the login that a browser began, None where it began none."""
    parts = text.split(".")
    return Begun(*parts) if len(parts) == 3 and all(parts) else None


class Provider:
    """The OpenID provider of the settings."""

    def __init__(self, oidc: Oidc, back: str) -> None:
        self._oidc = oidc
        self._back = back  # the address to which it sends browsers back
        self._known: tuple[float, dict[str, Any], Any] | None = None
        self._lock = threading.Lock()

    def begin(self) -> tuple[str, Begun]:
        """Return where to send the browser, and what to match at its return. Raises CurieError."""
        begun = Begun(new_token(), new_token(), new_token() + new_token())
        with self._session() as session:
            about, _ = self._about()
            url, _ = session.create_authorization_url(
                about["authorization_endpoint"], state=begun.state, nonce=begun.nonce, code_verifier=begun.verifier
            )
        return str(url), begun

    def finish(self, begun: Begun, code: str) -> Person:
        """Return who came back with a code. Raises CurieError where the provider's word is not good."""
        from authlib.common.errors import AuthlibBaseError
        from requests import RequestException

        about, _ = self._about()
        try:
            with self._session() as session:
                token = session.fetch_token(
                    about["token_endpoint"], code=code, code_verifier=begun.verifier, timeout=WAIT_S, verify=self._ca
                )
        except (AuthlibBaseError, RequestException, ValueError) as error:
            raise CurieError(f"the identity provider did not accept the login ({type(error).__name__})") from None
        return self._person(self._claims(str(token.get("id_token", "")), begun.nonce))

    @property
    def _ca(self) -> str | bool:
        return str(self._oidc.ca) if self._oidc.ca else True

    def _session(self) -> Any:
        try:
            from authlib.integrations.requests_client import OAuth2Session
        except ModuleNotFoundError:
            raise Missing("console.oidc needs an extra: pip install 'petite-curie[oidc]'") from None
        try:
            secret = self._oidc.client_secret_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Missing(f"console.oidc.client_secret_file cannot be read: {type(error).__name__}") from None
        return OAuth2Session(
            self._oidc.client_id,
            secret,
            scope="openid profile email",
            redirect_uri=self._back,
            code_challenge_method="S256",
        )

    def _about(self, *, anew: bool = False) -> tuple[dict[str, Any], Any]:
        """Return what the provider says of itself, and its keys; asked once an hour. Raises CurieError."""
        with self._lock:
            if self._known is None or anew or time.monotonic() - self._known[0] > KEPT_S:
                about = self._read(f"{self._oidc.issuer}/.well-known/openid-configuration")
                if about.get("issuer") != self._oidc.issuer:
                    raise SettingsError("console.oidc.issuer is not what the provider calls itself")
                self._known = (time.monotonic(), about, self._keys(about))
            return self._known[1], self._known[2]

    def _keys(self, about: Mapping[str, Any]) -> Any:
        from joserfc.jwk import KeySet

        try:
            return KeySet.import_key_set(self._read(about["jwks_uri"]))  # type: ignore[arg-type]
        except (ValueError, KeyError, TypeError):
            raise CurieError("the identity provider's keys cannot be read") from None

    def _read(self, url: str) -> dict[str, Any]:
        import requests

        try:
            answer = requests.get(url, timeout=WAIT_S, verify=self._ca, allow_redirects=False)
            answer.raise_for_status()
            found = answer.json()
        except (requests.RequestException, ValueError):
            raise CurieError(f"the identity provider at {self._oidc.issuer} does not answer") from None
        if not isinstance(found, dict):
            raise CurieError(f"the identity provider at {self._oidc.issuer} does not answer as one")
        return found

    def _claims(self, id_token: str, nonce: str) -> dict[str, Any]:
        """Return what a signed ID Token says (OpenID Connect Core 3.1.3.7). Raises CurieError."""
        from joserfc.errors import JoseError

        try:
            return self._checked(id_token, nonce, anew=False)
        except (JoseError, ValueError):
            pass  # it may have new keys
        try:
            return self._checked(id_token, nonce, anew=True)
        except (JoseError, ValueError) as error:
            raise CurieError(f"the identity provider's answer is not good ({type(error).__name__})") from None

    def _checked(self, id_token: str, nonce: str, *, anew: bool) -> dict[str, Any]:
        from joserfc import jwt

        _, keys = self._about(anew=anew)
        claims = dict(jwt.decode(id_token, keys, algorithms=SIGNED_BY).claims)
        essential = {"iss": self._oidc.issuer, "aud": self._oidc.client_id, "nonce": nonce}
        rules: dict[str, Any] = {name: {"essential": True, "value": value} for name, value in essential.items()}
        rules |= {name: {"essential": True} for name in ("exp", "iat", "sub")}
        jwt.JWTClaimsRegistry(leeway=LEEWAY_S, **rules).validate(claims)
        audience = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if len(audience) > 1 and claims.get("azp") != self._oidc.client_id:
            raise ValueError("meant for somebody else")
        return claims

    def _person(self, claims: Mapping[str, Any]) -> Person:
        named = str(claims.get(self._oidc.name_claim) or claims["sub"])
        name = "".join(one for one in named if one.isprintable())[:48]
        held = claims.get(self._oidc.roles_claim) or []
        groups = {str(one) for one in (held if isinstance(held, list) else [held])}
        roles = [role for role in ROLES if groups & set(getattr(self._oidc, role))]
        return Person(f"{name} (provider)", roles[-1] if roles else "")

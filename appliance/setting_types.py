"""The kinds of value that settings are made of. It must never read a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Table(BaseModel):
    """One table of curie.toml: closed, and frozen once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _ae_title(value: str) -> str:
    if not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", value) or not value.strip():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters, no backslash")
    return value.strip()


def _web_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError("an address begins with https:// or http:// and names no user, query or fragment")
    return value.rstrip("/")


def _broker_address(value: str) -> str:
    if not re.fullmatch(r"embedded|(rediss?|redis\+socket)://.+", value):
        raise ValueError("allowed are embedded, redis://HOST/0, rediss://USER:PASSWORD@HOST/0")
    return value


def _credentials(value: str) -> str:
    if not re.fullmatch(r"(bearer|basic):.+", value):
        raise ValueError('credentials lie in a file: "bearer:FILE" or "basic:FILE"')
    return value


AETitle = Annotated[str, AfterValidator(_ae_title)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
BrokerAddress = Annotated[str, AfterValidator(_broker_address)]
Credentials = Annotated[str, AfterValidator(_credentials)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=86400)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Oidc(Table):
    """An OpenID provider whose accounts may open the console, and which of its groups have which role there."""

    issuer: WebAddress
    client_id: str = Field(min_length=1)
    client_secret_file: Path
    ca: Path | None = None  # beside the CAs of the system
    title: str = Field(default="Log in with your hospital account", min_length=1, max_length=64)
    name_claim: str = "preferred_username"
    roles_claim: str = "groups"
    viewer: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()
    administrator: tuple[str, ...] = ()


def credentials_in(folder: Path, auth: str | None) -> str | None:
    """Return `auth` with the path of its file absolute, counted from the settings' folder."""
    if auth is None:
        return None
    kind, _, path = auth.partition(":")
    return f"{kind}:{folder / Path(path).expanduser()}"

"""What `[alerts]`, `[audit]` and `[tracing]` may say: who is told what happens here. It must never read a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import AfterValidator, Field

from appliance.setting_types import Table, WebAddress

FILES = ("ca", "certificate", "key", "auth")  # of what an address names behind its question mark


def _webhook(value: str) -> str:
    if value and urlsplit(value).scheme not in ("http", "https"):
        raise ValueError('a webhook is written as "https://chat.example.org/hooks/…"')
    return value


def _smtp(value: str) -> str:
    parts = urlsplit(value)
    if value and not (parts.scheme in ("smtp", "smtps") and parts.hostname and parse_qs(parts.query).get("to")):
        raise ValueError('a way for e-mail is written as "smtp://mail.example.org:25?to=it@example.org"')
    if "@" in parts.netloc:
        raise ValueError("name and password stand in a file: smtp://…?to=…&auth=FILE, which holds name:password")
    return value


class Alerts(Table):
    webhook: Annotated[str, AfterValidator(_webhook)] = ""  # alarms are sent there as JSON by POST
    smtp: Annotated[str, AfterValidator(_smtp)] = ""  # smtp[s]://HOST:PORT?to=…&from=…&auth=FILE


def _syslog(value: str) -> str:
    parts = urlsplit(value)
    unknown = set(parse_qs(parts.query, keep_blank_values=True)) - {"ca", "certificate", "key"}
    if value and not (parts.scheme == "tls" and parts.hostname and not unknown and "@" not in parts.netloc):
        raise ValueError(
            'a collector is written as "tls://host:6514", with ?ca=FILE&certificate=FILE&key=FILE if needed'
        )
    return value


class Tracing(Table):
    otlp: WebAddress | None = None  # a collector of OpenTelemetry, e.g. "http://127.0.0.1:4318"


class Audit(Table):
    syslog: Annotated[str, AfterValidator(_syslog)] = ""  # DICOM audit messages go there
    keep_years: float = Field(default=10, gt=0)


def placed(alerts: Alerts, audit: Audit, folder: Path) -> dict[str, Alerts | Audit]:
    """Return both with the files that their addresses name counted from `folder`."""
    return {
        "alerts": alerts.model_copy(update={"smtp": _with_files(alerts.smtp, folder)}),
        "audit": audit.model_copy(update={"syslog": _with_files(audit.syslog, folder)}),
    }


def _with_files(address: str, folder: Path) -> str:
    parts = urlsplit(address)
    said = parse_qsl(parts.query)
    query = [(key, str(folder / Path(value).expanduser()) if key in FILES else value) for key, value in said]
    return urlunsplit(parts._replace(query=urlencode(query, safe="/@,")))

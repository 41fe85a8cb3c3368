"""The settings of who is outside: destinations, worklists, receivers of messages; and what of them cannot be.

It must never open a connection, nor read the file that holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from appliance.errors import SettingsError
from appliance.setting_types import AETitle, Credentials, Name, Port, Table, WebAddress, credentials_in

NEARBY = ("127.0.0.1", "::1", "localhost")  # where a secret may go without TLS


class WebPeer(Table):
    """Somebody who is spoken to over HTTP."""

    name: Name
    auth: Credentials | None = None
    ca: Path | None = None  # beside the CAs of the system


class Destination(WebPeer):
    """Where results go: an AE, or a DICOMweb address."""

    ae_title: AETitle | None = None
    host: str | None = None
    port: Port = 104
    url: WebAddress | None = None
    commitment: bool = True
    find: bool = False
    notify: bool = False  # an Instance Availability Notification once a job's results are there
    results: tuple[Literal["SEG", "SR", "KOS", "PMAP", "GSPS", "SC", "PDF", "RTSTRUCT", "LABELMAP"], ...] = (
        "SEG",
        "SR",
    )

    @property
    def commits(self) -> bool:
        """Whether storage commitment is asked of it: a DIMSE service."""
        return self.commitment and not self.url

    def unused(self) -> list[str]:
        """Return the keys that ask for a DIMSE service beside a url."""
        given = self.model_fields_set & {"commitment", "find"} if self.url else set()
        return sorted(key for key in given if getattr(self, key))


class Worklist(WebPeer):
    """A UPS-RS worklist whose workitems we perform (PS3.18 Section 11)."""

    url: WebAddress
    route: Name
    scheduled_station: str | None = Field(default=None, min_length=1, max_length=16)  # code value of our station
    label: str | None = Field(default=None, min_length=1, max_length=64)  # Worklist Label
    workitem_code: str | None = Field(default=None, min_length=1, max_length=16)  # code value of what is to be done
    poll_s: float = Field(default=10, ge=0.1, le=3600)


class MessageReceiver(Table):
    """A RIS that gets an HL7 message for each job, over MLLP."""

    name: Name
    host: str
    port: Port = 2575
    routes: tuple[Name, ...] = ()  # empty: all
    application: str = Field(default="", max_length=180, pattern=r"^[^|^~\\&\r\n]*$")  # Receiving Application (MSH-5)
    facility: str = Field(default="", max_length=180, pattern=r"^[^|^~\\&\r\n]*$")  # Receiving Facility (MSH-6)
    tls: bool = False
    ca: Path | None = None


def placed(one: WebPeer | MessageReceiver, folder: Path) -> dict[str, object]:
    """Return what changes where relative paths count from `folder`."""
    change: dict[str, object] = {"ca": folder / one.ca.expanduser() if one.ca else None}
    if isinstance(one, WebPeer):
        change["auth"] = credentials_in(folder, one.auth)
    return change


def check_destination(one: Destination, file: Path) -> None:
    """Refuse a destination that is neither an AE nor an address, or both. Raises SettingsError."""
    where = f"{file}: destinations.{one.name}"
    by_dimse = sorted(one.model_fields_set & {"ae_title", "host", "port"})
    if one.url and by_dimse:
        raise SettingsError(
            f"{where}.{by_dimse[0]} = {getattr(one, by_dimse[0])!r} stands beside url: "
            "give either url, or ae_title, host and port"
        )
    if not one.url and not (one.ae_title and one.host):
        raise SettingsError(f"{file}: destination {one.name!r} needs ae_title and host, or url")
    if one.url and one.notify:
        raise SettingsError(f"{where}.notify = true is not allowed beside url: notifications go to an AE")
    for key in () if one.url else ("auth", "ca"):
        if getattr(one, key):
            raise SettingsError(f"{where}.{key} = {str(getattr(one, key))!r} is not allowed without url")
    if one.url:
        check_secrecy(one.url, one.auth, one.ca, where)


def check_secrecy(url: str, auth: str | None, ca: Path | None, where: str) -> None:
    """Refuse a secret that would cross a network in the clear, and a CA that nothing looks at."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return
    if auth and parts.hostname not in NEARBY:
        raise SettingsError(f"{where}.url = {url!r} is not allowed with auth: the secret would go in the clear; https")
    if ca:
        raise SettingsError(f"{where}.ca = {str(ca)!r} is not allowed without https")


def check_worklist(one: Worklist, routes: Iterable[str], file: Path) -> None:
    """Refuse a worklist that would take everybody's work, or whose route is not there. Raises SettingsError."""
    where = f"{file}: worklists.{one.name}"
    if not (one.scheduled_station or one.label or one.workitem_code):
        raise SettingsError(
            f"{where} needs scheduled_station, label or workitem_code: else it would claim every workitem"
        )
    _check_route(one.route, routes, f"{where}.route")
    check_secrecy(one.url, one.auth, one.ca, where)


def check_message_receiver(one: MessageReceiver, routes: Iterable[str], file: Path) -> None:
    """Refuse a receiver of messages of routes that are not there. Raises SettingsError."""
    where = f"{file}: messages.{one.name}"
    for name in one.routes:
        _check_route(name, routes, f"{where}.routes")
    if one.ca and not one.tls:
        raise SettingsError(f"{where}.ca = {str(one.ca)!r} is not allowed without tls = true")


def _check_route(name: str, routes: Iterable[str], where: str) -> None:
    known = sorted(routes)
    if name not in known:
        raise SettingsError(f"{where} = {name!r} is not a route; allowed: {', '.join(known) or 'none is set'}")

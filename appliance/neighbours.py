"""What `curie doctor` asks of those outside: do they answer? It connects and asks, and leaves nothing with anybody."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from appliance.errors import DeliveryFailed, Missing, Unreachable
from appliance.settings import Destination, MessageReceiver, Settings

PORTS = {"http": 80, "https": 443, "smtp": 25, "smtps": 465}
CONNECT_S = 5.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    text: str
    remedy: str = ""

    def record(self) -> dict[str, Any]:
        """Return the check as a JSON record."""
        return asdict(self)


def check_sources(settings: Settings) -> list[Check]:
    """Each source that says where it answers takes our C-ECHO."""
    from dicom_nodes import sender

    found = []
    for one in settings.sources:
        if one.host is None or one.port is None:
            continue
        name = f"source {one.ae_title}"
        try:
            sender.echo(sender.Peer(one.ae_title, one.ae_title, one.host, one.port), settings.sender.ae_title)
        except DeliveryFailed as error:
            remedy = f"Let it know the AE title {settings.sender.ae_title}, or mend host and port; catch-up asks there"
            found.append(Check(name, False, str(error), remedy))
        else:
            found.append(Check(name, True, "answers C-ECHO"))
    return found


def check_destinations(settings: Settings) -> list[Check]:
    """Every destination answers C-ECHO, or its DICOMweb address an HTTP request; C-FIND too where `find = true`."""
    from dicom_nodes import query
    from dicom_nodes.dicomweb import probe
    from dicom_nodes.sender import echo

    def answer(one: Destination) -> str:
        if one.url:
            return probe(one)
        echo(one, settings.sender.ae_title)
        return "answers C-ECHO"

    title, found = settings.sender.ae_title, list[Check]()
    remedy = "Results wait meanwhile and are sent when it answers"
    for one in settings.destinations:
        there = _asked(f"destination {one.name}", partial(answer, one), remedy)
        found.append(there)
        if one.find and not one.url and there.ok:
            ask = partial(query.probe, one, title)
            found.append(_asked(f"C-FIND of {one.name}", ask, f"{query.remedy(title)}; results wait meanwhile"))
    return found


def check_worklists(settings: Settings) -> list[Check]:
    """Every worklist answers a search."""
    from dicom_nodes.worklist import probe

    remedy = "Check url, auth and ca; its workitems stay scheduled meanwhile"
    return [_asked(f"worklist {one.name}", partial(probe, one), remedy) for one in settings.worklists]


def check_messages(settings: Settings) -> list[Check]:
    """HL7 messages can be checked, and every receiver of them takes connections; none is sent."""
    from dicom_nodes.mllp import probe
    from dicom_nodes.observation_message import check_there

    def answer(receiver: MessageReceiver) -> str:
        check_there()
        return probe(receiver)

    remedy = "Messages wait meanwhile and are sent when it answers"
    return [_asked(f"messages {one.name}", partial(answer, one), remedy) for one in settings.messages]


def check_coordinator(settings: Settings) -> list[Check]:
    """The coordinator takes a connection, where this site takes part; nothing is said to it."""
    if settings.federation is None:
        return []
    host, _, port = settings.federation.target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError as error:
        remedy = "Let this host reach it (one outbound port), or mend federation.coordinator; rounds go on without it"
        return [Check("coordinator", False, f"{settings.federation.target}: {error}", remedy)]
    return [Check("coordinator", True, f"{settings.federation.target} takes connections")]


def check_collector(settings: Settings) -> list[Check]:
    """The collector of audit messages takes a TLS connection, where one is named; nothing is sent."""
    from workers.audit_syslog import name_of, opened

    def answer() -> str:
        with opened(settings.audit.syslog) as stream:
            return f"{name_of(settings.audit.syslog)} takes {stream.version()}"

    if not settings.audit.syslog:
        return []
    return [_asked("audit collector", answer, "Check audit.syslog and its ?ca=; messages wait meanwhile")]


def check_alerts(settings: Settings) -> list[Check]:
    """Webhook and mail server take connections, where they are named; nothing is sent."""
    named = {"webhook": settings.alerts.webhook, "smtp": settings.alerts.smtp}
    return [
        _asked(f"alerts {way}", partial(_connected, url), f"Let this host reach it, or mend alerts.{way}; alarms wait")
        for way, url in named.items()
        if url
    ]


def check_tracing(settings: Settings) -> list[Check]:
    """The collector of traces takes connections, where one is named; nothing is sent."""
    if not settings.tracing.otlp:
        return []
    remedy = "Let this host reach it, or mend tracing.otlp; traces are lost meanwhile"
    return [_asked("tracing", partial(_connected, settings.tracing.otlp), remedy)]


def _connected(url: str) -> str:
    """Connect, with TLS where it is asked for; the path may be a secret and is not said. Raises Unreachable."""
    place = urlsplit(url)
    try:
        host, port = place.hostname or "localhost", place.port or PORTS[place.scheme]
        with socket.create_connection((host, port), CONNECT_S) as plain:
            if place.scheme in ("https", "smtps"):
                context = ssl.create_default_context()
                if place.scheme == "smtps":  # as the mail itself is sent: whoever answers there
                    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                context.wrap_socket(plain, server_hostname=host).close()
    except (OSError, ValueError) as error:
        raise Unreachable(f"{place.hostname}: {error}") from None
    return f"{host}:{port} takes connections"


def _asked(name: str, ask: Callable[[], str], remedy: str) -> Check:
    """Return what asking somebody outside brought."""
    try:
        return Check(name, True, ask())
    except (DeliveryFailed, Missing) as error:
        return Check(name, False, str(error), remedy)

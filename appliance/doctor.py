"""`curie doctor`: one check a line, each with its remedy. It changes nothing that lasts."""

from __future__ import annotations

import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from appliance.errors import CurieError, DeliveryFailed, Missing
from appliance.settings import Destination, MessageReceiver, Settings
from appliance.this_host import clock_is_kept, gpus

if TYPE_CHECKING:
    from models.registry import Registry

SLOW_SYNC_S = 0.1
CLOCK_S = 2.0
CERTIFICATE_DAYS = 30
GIB = 1024**3


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


def examine(settings: Settings) -> list[Check]:
    """Run every check; none stops the others."""
    checks: list[Callable[[Settings], Check | list[Check]]] = [
        check_folder,
        check_space,
        check_sync,
        check_catalogue,
        check_clock,
        check_broker,
        check_port,
        check_console,
        check_tls,
        check_sources,
        check_routes,
        check_gpu,
        check_packages,
        check_destinations,
        check_worklists,
        check_messages,
        check_kit,
        check_coordinator,
        check_collector,
    ]
    found: list[Check] = []
    for check in checks:
        result = check(settings)
        found += result if isinstance(result, list) else [result]
    return found


def check_folder(settings: Settings) -> Check:
    """The data_dir can be written."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        probe = folder / f".doctor-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Check("data_dir", False, f"{folder}: {error.strerror}", "Give it to the user that runs curie")
    return Check("data_dir", True, str(folder))


def check_space(settings: Settings) -> Check:
    """There is more free space than the reserve."""
    try:
        free = shutil.disk_usage(settings.data_dir).free / GIB
    except OSError as error:
        return Check("free space", False, str(error.strerror), "Make data_dir first")
    text = f"{free:.1f} GiB free, {settings.spool.reserve_gb:g} are kept in reserve"
    remedy = "Free space, or lower spool.reserve_gb or spool.keep_days; until then images are refused (0xA700)"
    return Check("free space", free > settings.spool.reserve_gb, text, remedy)


def check_sync(settings: Settings) -> Check:
    """fsync is fast enough to receive with."""
    probe = settings.data_dir / f".doctor-{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600)
        started = time.monotonic()
        os.write(descriptor, b"x" * 4096)
        os.fsync(descriptor)
        took = time.monotonic() - started
        os.close(descriptor)
        probe.unlink()
    except OSError as error:
        return Check("fsync", False, str(error.strerror), "See data_dir")
    return Check("fsync", took < SLOW_SYNC_S, f"{took * 1000:.1f} ms", "The disk is slow; use a local SSD")


def check_catalogue(settings: Settings) -> Check:
    """The catalogue opens and has this version's schema."""
    from appliance.catalogue import open_catalogue

    try:
        catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
        version = catalogue.version()
        catalogue.close()
    except CurieError as error:
        return Check("catalogue", False, str(error), "Start the database, mend its schema or catalogue.url")
    return Check("catalogue", True, f"schema {version}")


def check_clock(settings: Settings) -> Check:
    """This host's clock goes with the catalogue's: leases and the order of events rest on it."""
    from appliance.catalogue import events, open_catalogue

    remedy = "Let a time server keep this host's clock (chrony or systemd-timesyncd)"
    try:
        catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
        with catalogue.read() as connection:
            ahead_s = events.clock_ahead_s(connection)
        catalogue.close()
    except CurieError:
        ahead_s = 0.0  # check_catalogue has said so
    if ahead_s > CLOCK_S:
        return Check("clock", False, f"the catalogue is {ahead_s:.0f} s ahead of this host", remedy)
    kept = {True: "follows a time server", False: f"the kernel knows of no time server. {remedy}", None: "unknown"}
    return Check("clock", True, f"goes with the catalogue; {kept[clock_is_kept()]}")


def check_gpu(settings: Settings) -> list[Check]:
    """The GPU that the settings name, or that is here, has a driver."""
    found, wanted = gpus(), settings.worker.device.partition(":")[2]
    if wanted and int(wanted) >= len(found):
        text = f"worker.device is {settings.worker.device}, {len(found)} GPUs have a driver here"
        return [Check("gpu", False, text, "Install the driver (`nvidia-smi` must list it), or set worker.device")]
    return [Check(f"gpu {number}", True, text) for number, text in enumerate(found)]


def check_broker(settings: Settings) -> Check:
    """The broker answers, or is ours to start."""
    from workers import broker

    if broker.answers(settings):
        return Check("broker", True, "answers")
    if settings.broker.url == "embedded":
        return Check("broker", True, "embedded, starts with `curie up`")
    remedy = "Start it, or mend broker.url; jobs still run, up to 5 s later"
    return Check("broker", False, "does not answer", remedy)


def check_port(settings: Settings) -> Check:
    """Our receiver answers, or its port is free."""
    from appliance.cli.operate import answers_echo

    place = settings.receiver
    if answers_echo(settings):
        return Check("receiver", True, f"{place.ae_title} answers C-ECHO on port {place.port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((place.host, place.port))
        except OSError as error:
            remedy = "Stop what listens there, or change receiver.port"
            return Check("receiver", False, f"port {place.port}: {error.strerror}", remedy)
    return Check("receiver", True, f"port {place.port} is free; `curie up` will listen there")


def check_console(settings: Settings) -> Check:
    """The console answers, or its port is free."""
    place = settings.console
    try:
        with urllib.request.urlopen(f"http://{place.host}:{place.port}/healthz", timeout=3) as answer:
            return Check("console", True, f"answers on port {place.port} ({answer.status})")
    except urllib.error.HTTPError as error:
        if error.code == 503:  # it is ours, and says that something else is not well
            return Check("console", True, f"answers on port {place.port}; not all processes beat")
        text = f"port {place.port}: something else answers there"
    except OSError:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((place.host, place.port))
            except OSError as error:
                text = f"port {place.port}: {error.strerror}"
            else:
                return Check("console", True, f"port {place.port} is free; `curie up` will serve it there")
    return Check("console", False, text, "Stop what listens there, or change console.port")


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


def check_tls(settings: Settings) -> list[Check]:
    """The receiver's certificates can be used, and last for a while."""
    from appliance.certificates import read_certificate
    from dicom_nodes.receiver import tls_context

    tls = settings.receiver.tls
    if tls is None:
        return []
    remedy = "Let your CA sign a new request (`curie tls csr`), then name it under [receiver.tls]"
    found = []
    try:
        tls_context(tls)
        for file in (tls.certificate, tls.ca):
            facts = read_certificate(file)
            days = (facts.not_after - datetime.now(UTC)).days
            found.append(Check(f"certificate {file.name}", days >= CERTIFICATE_DAYS, f"{days} days left", remedy))
    except CurieError as error:
        found.append(Check("certificates", False, str(error), remedy))
    return found


def check_kit(settings: Settings) -> list[Check]:
    """The consortium's certificate is there, where this site takes part, and lasts for a while."""
    from appliance.certificates import read_certificate

    if settings.federation is None:
        return []
    remedy = "Ask the coordinator for a kit (`curie federation invite` there), then `curie federation join KIT` here"
    try:
        days = (read_certificate(settings.federation.kit / "client.crt").not_after - datetime.now(UTC)).days
    except CurieError as error:
        return [Check("federation", False, str(error), remedy)]
    return [Check("federation", days >= CERTIFICATE_DAYS, f"its certificate has {days} days left", remedy)]


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


def check_routes(settings: Settings) -> Check:
    """There is a route, and someone may send."""
    if not settings.routes:
        return Check("routes", False, "there is none", "Add [[routes]] to the settings")
    if not settings.sources and settings.receiver.unknown_sources == "refuse":
        return Check("sources", False, "nobody may send", "Add [[sources]] for your PACS")
    return Check("routes", True, f"{len(settings.routes)} routes, {len(settings.sources)} sources")


def check_packages(settings: Settings) -> list[Check]:
    """Every package that a route names is active, signed and whole, and what runs unsigned is named."""
    from appliance.catalogue import open_catalogue
    from models.registry import open_registry

    found = []
    try:
        catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    except CurieError:
        return []  # check_catalogue has said so
    try:
        registry = open_registry(settings, catalogue)
        for name in sorted({route.package for route in settings.routes}):
            found.append(_check_package(registry, name))
    except CurieError as error:
        found.append(Check("packages", False, str(error), "See docs/models.md"))
    finally:
        catalogue.close()
    return found


def _check_package(registry: Registry, name: str) -> Check:
    what = f"package {name}"
    try:
        row = registry.row(name)
        package = registry.verified(row)
    except CurieError as error:
        return Check(what, False, str(error), "Install it again, promote a version, or name another in the route")
    if not package.signer:
        return Check(what, False, f"version {row.version} is UNSIGNED", "Sign it: `curie models sign`, install it anew")
    text, on_cpu = _runs_on(registry, row.digest)
    if on_cpu and gpus() and registry.settings.worker.device != "cpu":
        remedy = "`curie models show` says why; look at the driver, then `curie models build`"
        return Check(what, False, f"version {row.version} {text}, though there is a GPU", remedy)
    return Check(what, True, f"version {row.version}, signature and digests right, {text}")


def _runs_on(registry: Registry, digest: str) -> tuple[str, bool]:
    """Return on which engine this host runs a package, which agreed with its golden cases, and whether on the CPU."""
    from appliance.catalogue import packages

    with registry.catalogue.read() as connection:
        reports = packages.engine_reports(connection, digest)
    here = [one for one in reports if one["host"] == socket.gethostname()]
    if not here:
        return "not loaded on this host yet (`curie models build` does it before the first study)", False
    last = here[0]
    return f"runs on {last['engine']} {last['precision']}, parity held on {last['at']:%Y-%m-%d}", last[
        "device"
    ] == "cpu"


def check_destinations(settings: Settings) -> list[Check]:
    """Every destination answers C-ECHO, or its DICOMweb address an HTTP request."""
    from dicom_nodes.dicomweb import probe
    from dicom_nodes.sender import echo

    def answer(one: Destination) -> str:
        if one.url:
            return probe(one)
        echo(one, settings.sender.ae_title)
        return "answers C-ECHO"

    remedy = "Results wait meanwhile and are sent when it answers"
    return [_asked(f"destination {one.name}", partial(answer, one), remedy) for one in settings.destinations]


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


def _asked(name: str, ask: Callable[[], str], remedy: str) -> Check:
    """Return what asking somebody outside brought."""
    try:
        return Check(name, True, ask())
    except (DeliveryFailed, Missing) as error:
        return Check(name, False, str(error), remedy)

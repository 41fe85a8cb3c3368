"""`curie doctor`: one check a line, each with its remedy. It changes nothing that lasts."""

from __future__ import annotations

import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from appliance.errors import CurieError, Missing
from appliance.neighbours import (
    Check,
    check_alerts,
    check_collector,
    check_coordinator,
    check_destinations,
    check_messages,
    check_sources,
    check_tracing,
    check_worklists,
)
from appliance.settings import Settings
from appliance.this_host import clock_is_kept, gpus

if TYPE_CHECKING:
    from appliance.catalogue import Catalogue
    from models.registry import Registry

SLOW_SYNC_S = 0.1
CLOCK_S = 2.0
CERTIFICATE_DAYS = 30
UNOPENED = "not looked at: the catalogue does not open"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
GIB = 1024**3


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
        check_alerts,
        check_tracing,
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
    try:
        catalogue = _opened(settings)
        version = catalogue.version()
        catalogue.close()
    except CurieError as error:
        return Check("catalogue", False, str(error), "Start the database, mend its schema or catalogue.url")
    return Check("catalogue", True, f"schema {version}")


def _opened(settings: Settings) -> Catalogue:
    """Open the catalogue. Raises CurieError, whatever is in its way."""
    from sqlalchemy.exc import SQLAlchemyError

    from appliance.catalogue import open_catalogue

    try:
        return open_catalogue(settings.catalogue_url, settings.data_dir)
    except OSError as error:
        raise Missing(f"{error.filename or settings.data_dir}: {error.strerror}") from None
    except SQLAlchemyError as error:
        raise Missing(f"what lies at catalogue.url cannot be used ({type(error).__name__})") from None


def check_clock(settings: Settings) -> Check:
    """This host's clock goes with the catalogue's: leases and the order of events rest on it."""
    from appliance.catalogue import events

    remedy = "Let a time server keep this host's clock (chrony or systemd-timesyncd)"
    try:
        catalogue = _opened(settings)
        with catalogue.read() as connection:
            ahead_s = events.clock_ahead_s(connection)
        catalogue.close()
    except CurieError:
        return Check("clock", False, UNOPENED, "See catalogue")
    if ahead_s > CLOCK_S:
        return Check("clock", False, f"the catalogue is {ahead_s:.0f} s ahead of this host", remedy)
    kept = {True: "follows a time server", False: "the kernel knows of no time server", None: "unknown"}
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
    """The console answers, or its port is free; where others may read along, the line says so."""
    place = settings.console
    open_ = place.host not in LOOPBACK and not (place.url or "").startswith("https:")
    remark = "; other hosts reach it, and console.url names no https: passwords go in the clear" if open_ else ""
    try:
        with urllib.request.urlopen(f"http://{place.host}:{place.port}/healthz", timeout=3) as answer:
            return Check("console", True, f"answers on port {place.port} ({answer.status}){remark}")
    except urllib.error.HTTPError as error:
        if error.code == 503:  # it is ours, and says that something else is not well
            return Check("console", True, f"answers on port {place.port}; not all processes beat{remark}")
        text = f"port {place.port}: something else answers there"
    except OSError:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((place.host, place.port))
            except OSError as error:
                text = f"port {place.port}: {error.strerror}"
            else:
                return Check("console", True, f"port {place.port} is free; `curie up` will serve it there{remark}")
    return Check("console", False, text, "Stop what listens there, or change console.port")


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


def check_routes(settings: Settings) -> Check:
    """There is a route, and someone may send."""
    if not settings.routes:
        return Check("routes", False, "there is none", "Add [[routes]] to the settings")
    if not settings.sources and settings.receiver.unknown_sources == "refuse":
        return Check("sources", False, "nobody may send", "Add [[sources]] for your PACS")
    return Check("routes", True, f"{len(settings.routes)} routes, {len(settings.sources)} sources")


def check_packages(settings: Settings) -> list[Check]:
    """Every package that a route names is active, signed and whole, and what runs unsigned is named."""
    from models.registry import open_registry
    from models.signing import trust_of

    try:
        trust_of(settings)
    except CurieError as error:
        return [Check("trusted keys", False, str(error), "Put the key there, or take it out; no package is looked at")]
    try:
        catalogue = _opened(settings)
    except CurieError:
        return [Check("packages", False, UNOPENED, "See catalogue")]
    found = []
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

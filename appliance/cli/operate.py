"""`curie init | up | run | demo | status | doctor`: running the appliance and looking at it."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table, reading
from appliance.errors import DeliveryFailed, Missing, SettingsError
from appliance.settings import DEFAULT_FILE, Destination, Settings, find_file, load

FIRST = 3  # alarms that are written out
ALWAYS_SHOWN = ("studies", "instances", "jobs", "outbox")


class ProcessName(StrEnum):
    """Processes that `curie run` knows."""

    receiver = "receiver"
    dispatch = "dispatch"
    worker = "worker"
    delivery = "delivery"
    console = "console"
    sidecar = "sidecar"
    coordinator = "coordinator"


def init(
    folder: Annotated[Path, typer.Argument(help="Where curie.toml and the data go.")] = Path("."),
) -> None:
    """Write a commented curie.toml and make the folders."""
    from appliance.example import example_settings

    file = folder / DEFAULT_FILE
    if file.exists():
        raise SettingsError(f"{file} is there already; edit it, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "curie-data").mkdir(mode=0o750, exist_ok=True)
        file.write_text(example_settings(), encoding="utf-8")
    except OSError as error:
        raise Missing(f"{folder} is not writable: {error.strerror}; name another folder") from None
    console.print(f"wrote {file}: name your PACS there, then `curie doctor --config {file}` and `curie up`")


def check_settings(settings: Settings) -> None:
    """Warn about settings without effect; refuse match keywords that DICOM does not know."""
    from appliance.cli.output import complain
    from dicom_nodes.observation_message import check_there
    from dicom_nodes.offline import is_keyword

    for key in settings.without_effect():
        complain(f"warning: setting {key} has no effect in this version")
    if (settings.federation or settings.coordinator) and importlib.util.find_spec("nvflare") is None:
        complain("warning: federated rounds need an extra: pip install 'petite-curie[federation]'")
    if settings.console.oidc and importlib.util.find_spec("authlib") is None:
        complain("warning: console.oidc needs an extra: pip install 'petite-curie[oidc]'")
    for title in settings.impossible_fingerprints():
        complain(f"warning: sources.{title}.fingerprint is not sha256: and 64 hexadecimal digits; nobody can match it")
    if settings.messages:
        try:
            check_there()
        except Missing as missing:
            complain(f"warning: {missing}")
    for route in settings.routes:
        for keyword in route.match:
            if not is_keyword(keyword):
                raise SettingsError(
                    f"routes.{route.name}.match.{keyword}: no attribute that routes may match on has this keyword"
                )


def up(config: ConfigOption = None) -> None:
    """Run all processes on this host, restart what dies, until SIGTERM or Ctrl-C."""
    from appliance.cli.house import House
    from appliance.log import start_logging
    from dicom_nodes.receiver import tls_context

    file = find_file(config)
    settings = load(file)
    check_settings(settings)
    if settings.receiver.tls:
        tls_context(settings.receiver.tls)  # raises SettingsError before anything is started
    start_logging("supervisor")
    house = House(settings, file)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with house.running():
        if house.wait_ready(stop):
            place = settings.receiver
            print(f"ready: {place.ae_title} answers on port {place.port}", flush=True)
        while not stop.wait(0.5):
            house.step()


def run(
    process: Annotated[ProcessName, typer.Argument(help="Which process.")],
    number: Annotated[int, typer.Option(help="Number of this worker on this host.")] = 1,
    config: ConfigOption = None,
) -> None:
    """Run one process in the foreground."""
    settings = load(config)
    os.environ["CURIE_CONFIG"] = str(find_file(config))  # for the processes it starts
    check_settings(settings)
    from appliance.cli.processes import RUN

    RUN[process.value](settings, number)


def demo(
    path: Annotated[Path | None, typer.Argument(help="Folder of DICOM files; default: the sample that ships.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results and picture; default: a new one.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep the data_dir and the logs of the processes.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the whole line at work: a study in over DICOM, SEG and SR back in a PACS, and a picture of it."""
    from appliance.cli.demo import run_demo

    run_demo(path, out, keep=keep, as_json=json)


def status(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the health of the appliance in one screen."""
    from appliance.catalogue import overview, processes
    from appliance.catalogue.connection import now
    from appliance.cli.models import listing
    from appliance.watch import alarms_now

    with reading(config) as (settings, connection):
        told: dict[str, Any] = {"ready": False, "version": _version()}
        told["processes"] = processes.listing(connection, now())
        told["alarms"] = [one.record() for one in alarms_now(settings, connection, now())]
        told |= overview.status(connection)
    told["refused"] = _refused(told["processes"])
    told["models"] = listing(settings)
    told["ready"] = is_ready(told["processes"], settings)
    if json:
        print_json(told)
    else:
        _print_status(told)
    if not told["ready"]:
        raise typer.Exit(1)


def is_ready(found: list[dict[str, Any]], settings: Settings) -> bool:
    """Return whether every kind of process that the appliance needs is there and healthy."""
    from appliance.alarms import needed

    healthy = [one["name"] for one in found if one["healthy"]]
    return all(any(name.startswith(kind) for name in healthy) for kind in needed(settings.broker.url))


def _refused(found: list[dict[str, Any]]) -> dict[str, int]:
    """Return what the receiver's processes refused since they started, by reason."""
    total: dict[str, int] = {}
    for one in found:
        for reason, count in one["detail"].get("refused", {}).items():
            total[reason] = total.get(reason, 0) + count
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _version() -> str:
    from appliance import __version__

    return __version__


def _print_status(told: dict[str, Any]) -> None:
    console.print(f"petite curie {told['version']}: {'ready' if told['ready'] else 'NOT READY'}")
    rows = [(p["name"], p["pid"], p["host"], "healthy" if p["healthy"] else "AWAY") for p in told["processes"]]
    print_table(("process", "pid", "host", "health"), rows)
    console.print(f"alarms    {len(told['alarms']) or 'none'}")
    for one in told["alarms"][:FIRST]:
        console.print(f"          {one['said']} {one['remedy']}", markup=False)
    if len(told["alarms"]) > FIRST:
        console.print(f"          and {len(told['alarms']) - FIRST} more: see the console")
    for name in ("studies", "instances", "jobs", "outbox", "notices", "workitems"):
        if name in ALWAYS_SHOWN or any(told[name].values()):
            console.print(f"{name:9} " + "  ".join(f"{state} {count}" for state, count in told[name].items()))
    for one in told["not_taken"]:
        told_of = f"{one['destination']} does not take {one['role']} ({one['count']} times)"
        console.print(f"not taken {told_of}: {one['answer']}", markup=False)
    for reason, count in told["refused"].items():
        console.print(f"refused   {count} × {reason}", markup=False)
    for model in told["models"]:
        alarm = " UNSIGNED" if model["unsigned"] else ""
        console.print(f"model     {model['package']}@{model['version']} {model['state']} {model['backend']}{alarm}")
        for one in model["skipped"] if model["state"] in ("active", "shadow") else []:
            console.print(f"          not on {one['rung']}: {one['reason']}", markup=False)


def doctor(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Check settings, disk, ports, broker, catalogue, models and destinations; each with its remedy."""
    from appliance.alarms import ended
    from appliance.doctor import examine

    settings = load(config)
    check_settings(settings)
    found = examine(settings)
    if json:
        print_json([one.record() for one in found])
    for one in [] if json else found:
        mark = {True: "[green]ok[/]  ", False: "[red]FAIL[/]"}[one.ok]
        console.print(f"{mark} {one.name}: ", end="")
        console.print(one.text if one.ok else f"{ended(one.text)} {one.remedy}", markup=False)
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def answers_echo(settings: Settings) -> bool:
    """Return whether our own receiver answers C-ECHO on this host."""
    from dicom_nodes.sender import echo

    place = settings.receiver
    host = "127.0.0.1" if place.host in ("0.0.0.0", "::") else place.host
    ourselves = Destination(name="ourselves", ae_title=place.ae_title, host=host, port=place.port)
    try:
        echo(ourselves, place.ae_title)
    except DeliveryFailed:
        return False
    return True

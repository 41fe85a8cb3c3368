"""`curie catch-up`: studies that a source has and that never came here are asked for, slowly."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, Any

import typer

from appliance.catalogue import events, overview
from appliance.catch_up import chosen, days
from appliance.cli.output import ConfigOption, JsonOption, complain, console, moment, print_json, reading, writing
from appliance.errors import DeliveryFailed, Missing, SettingsError
from appliance.settings import Settings, load

LONGEST = 366  # days at once


def catch_up(
    source: Annotated[str, typer.Argument(help="AE title of a source with host and port in the settings.")],
    since: Annotated[datetime, typer.Option(parser=moment, metavar="DATE", help="First Study Date.")],
    until: Annotated[datetime | None, typer.Option(parser=moment, metavar="DATE", help="Last one; today.")] = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="Only studies with this modality; may be repeated.")
    ] = None,
    per_minute: Annotated[float, typer.Option(help="At most so many studies.", min=0.1, max=600)] = 6.0,
    get: Annotated[bool, typer.Option("--get", help="Fetch by C-GET: the source need not know where to send.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is missing.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Find studies that never came, or not whole, by C-FIND at a source, and ask for them by C-MOVE to our receiver.

    For that the source must know our AE title as a destination; with --get it sends over the association that asks, and
    our receiver must take images from our own AE title. Nothing is fetched twice: what is held is left out.
    """
    settings = load(config)
    first, last = since.date(), (until or datetime.now()).date()
    if not 0 <= (last - first).days < LONGEST:
        raise SettingsError(f"--since {first} --until {last}: name 1 to {LONGEST} days")
    peer = peer_of(settings, source)
    missed = look(settings, peer, (first, last), modality or [], config)
    with writing(config) as connection:
        asked = [source, str(first), str(last), *(["C-GET"] if get else []), *(["dry run"] if dry_run else [])]
        events.record(connection, "catch_up_asked", who=getpass.getuser(), asked=asked, missed=len(missed))
    found = [] if dry_run else ask(way(settings, peer, by_get=get), missed, 60 / per_minute, quiet=json)
    if json:
        print_json({"missed": [{"study": uid, "reason": why} for uid, why in missed.items()], "fetched": found})
    else:
        for uid, why in missed.items() if dry_run else ():
            console.print(f"{uid}: {why}", markup=False)
        failed = sum(not one["ok"] for one in found)
        console.print(f"{len(missed)} studies missed" + ("" if dry_run else f", {failed} of them could not be fetched"))
    raise typer.Exit(0 if all(one["ok"] for one in found) else 1)


def peer_of(settings: Settings, source: str) -> Any:
    """Return the node of a source. Raises Missing where the settings do not say where it answers."""
    from dicom_nodes.sender import Peer

    for one in settings.sources:
        if one.ae_title == source:
            if one.host is None or one.port is None:
                raise Missing(
                    f"sources.{source} has no host and port: say there where it answers C-FIND and C-MOVE or C-GET"
                )
            return Peer(source, one.ae_title, one.host, one.port)
    raise Missing(f"no source has the AE title {source}; name it under [[sources]] with host and port")


def look(
    settings: Settings, peer: Any, between: tuple[date, date], only: list[str], config: Any
) -> dict[str, str]:  # fmt: skip
    """Return the studies that are missing, by UID with the reason."""
    from dicom_nodes.retrieve import studies_of_day

    there = {}
    for day in days(*between):
        for one in studies_of_day(peer, settings.sender.ae_title, day):
            there[one.uid] = (one.instances, one.modalities)
    with reading(config) as (_, connection):
        held = overview.held(connection, list(there))
    return chosen(there, held, only)


def way(settings: Settings, peer: Any, *, by_get: bool) -> Callable[[str], Any]:
    """Return what brings a study to our receiver."""
    from dicom_nodes import fetch, retrieve

    if by_get:
        return lambda uid: fetch.get(settings, peer, uid)
    return lambda uid: retrieve.move(peer, settings.sender.ae_title, uid, settings.receiver.ae_title)


def ask(
    bring: Callable[[str], Any], missed: dict[str, str], pause_s: float, *, quiet: bool
) -> list[dict[str, Any]]:  # fmt: skip
    """Ask for one study after another, and say of each how it went; one that fails holds up no other."""
    found = []
    for number, (uid, why) in enumerate(missed.items()):
        if number:
            time.sleep(pause_s)
        try:
            moved = bring(uid)
            ok, told = moved.completed > 0 and not moved.failed, f"{moved.completed} sent, {moved.failed} failed"
        except DeliveryFailed as error:
            ok, told = False, str(error)
        found.append({"study": uid, "ok": ok, "answer": told})
        if not quiet:
            (console.print if ok else complain)(f"{uid} ({why}): {told}")
    return found

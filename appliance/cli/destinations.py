"""`curie destinations …`: where results go, and whether they would arrive."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table
from appliance.errors import DeliveryFailed
from appliance.settings import Destination, load

app = typer.Typer(no_args_is_help=True, help="Destinations of results.")


@app.command("list")
def list_destinations(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the destinations in the settings."""
    found = [one.model_dump(mode="json", exclude={"auth"}) for one in load(config).destinations]
    if json:
        print_json(found)
        return
    rows = [(d["name"], d["ae_title"], d["url"] or f"{d['host']}:{d['port']}", d["commitment"]) for d in found]
    print_table(("name", "AE title", "address", "commitment"), rows)


@app.command("test")
def test_destinations(
    name: Annotated[str | None, typer.Argument(help="One destination; without it, all.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Ask each destination for C-ECHO and whether it takes its results, or its DICOMweb address for an answer."""
    settings = load(config)
    chosen = [settings.destination(name)] if name else list(settings.destinations)
    found = [probe(one, settings.sender.ae_title) for one in chosen]
    if json:
        print_json(found)
    for one in [] if json else found:
        mark = "[green]ok[/]" if one["ok"] else "[red]no[/]"
        console.print(f"{mark} {one['name']}: ", end="")
        console.print(one["answer"], markup=False)
    if not all(one["ok"] for one in found):
        raise typer.Exit(1)


def probe(destination: Destination, our_ae_title: str) -> dict[str, Any]:
    """Return what a destination answers: C-ECHO, and the contexts it accepts of those that we need."""
    from dicom_nodes.result_classes import BY_ROLE
    from workers.sending import probe as ask

    started = time.monotonic()
    try:
        answer = ask(destination, our_ae_title, [BY_ROLE[role] for role in destination.results])
    except DeliveryFailed as error:
        return {"name": destination.name, "ok": False, "answer": str(error), "seconds": None}
    seconds = round(time.monotonic() - started, 3)
    return {"name": destination.name, "ok": True, "answer": answer, "seconds": seconds}

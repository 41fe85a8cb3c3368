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
    rows = [(d["name"], d["ae_title"], f"{d['host']}:{d['port']}", d["commitment"]) for d in found]
    print_table(("name", "AE title", "address", "commitment"), rows)


@app.command("test")
def test_destinations(
    name: Annotated[str | None, typer.Argument(help="One destination; without it, all.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Ask each destination for C-ECHO, and whether it takes SEG, SR and storage commitment."""
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
    from dicom_nodes import sender
    from dicom_nodes.result_classes import BY_ROLE

    started = time.monotonic()
    try:
        sender.echo(destination, our_ae_title)
        wanted = sender.storage_contexts([BY_ROLE[r] for r in destination.results])
        if destination.commitment:
            wanted.append(sender.commitment_context())
        with sender.associate(destination, our_ae_title, wanted) as association:
            accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
        missing = [str(c.abstract_syntax.name) for c in wanted if str(c.abstract_syntax) not in accepted]
    except DeliveryFailed as error:
        return {"name": destination.name, "ok": False, "answer": str(error), "seconds": None}
    answer = f"does not accept {', '.join(missing)}" if missing else "C-ECHO, storage and commitment accepted"
    seconds = round(time.monotonic() - started, 3)
    return {"name": destination.name, "ok": not missing, "answer": answer, "seconds": seconds}

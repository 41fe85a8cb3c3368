"""`curie rehearse DESTINATION`: a phantom patient through the whole line, read back."""

from __future__ import annotations

import getpass
from typing import Annotated, Any

import typer

from appliance.catalogue import events, open_catalogue
from appliance.cli.output import ConfigOption, JsonOption, console, print_json
from appliance.errors import Missing
from appliance.settings import load


def rehearse(
    destination: Annotated[str, typer.Argument(help="Name of a destination.")],
    seconds: Annotated[float, typer.Option(help="Wait so long for each step.", min=10)] = 900.0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep images and results here.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Send a phantom patient through the running appliance to a destination, and read the results back there.

    Its study takes the usual routes: results go wherever these say. In the PACS the patient is CURIE-REHEARSAL.
    """
    from appliance.cli.operate import answers_echo
    from workers.rehearsal import Rehearsal

    settings = load(config)
    chosen = settings.destination(destination)
    if not answers_echo(settings):
        raise Missing("the receiver does not answer: `curie up` first")
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    rehearsal = Rehearsal(settings, catalogue, chosen, seconds)
    done: list[dict[str, Any]] = []
    try:
        for step in rehearsal.steps():
            done.append(step.record())
            if not json:
                console.print("[green]ok[/]" if step.ok else "[red]no[/]", end=" ")
                console.print(f"{step.name}: {step.text}", markup=False)
        passed = all(one["ok"] for one in done)
        with catalogue.write() as connection:
            told = {"who": getpass.getuser(), "study": rehearsal.study}
            events.record(connection, "rehearsed", **told, to=destination, passed=passed, steps=len(done))
        left = rehearsal.clear(getpass.getuser()) if passed and not keep else _stays(rehearsal.study)
    finally:
        catalogue.close()
    if json:
        print_json({"destination": destination, "passed": passed, "steps": done, "left": left})
    else:
        console.print(left, markup=False, soft_wrap=True)
    raise typer.Exit(0 if passed else 1)


def _stays(study: str) -> str:
    """Return how the phantom is deleted here, where it came so far."""
    if not study:
        return "nothing was received here"
    return f"the phantom stays here until you delete it:\ncurie studies forget {study} --reason rehearsal"

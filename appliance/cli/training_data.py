"""`curie federation data | label-import | opt-out`: what may be learned from here, and of whom nothing may be."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.output import ConfigOption, JsonOption, complain, console, print_json, print_table, reading
from appliance.errors import Missing
from appliance.settings import load
from appliance.training_set import kept_since, patient_hash


def data(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the labelled cases by package, scanner and source of the label, and what came back from radiologists."""
    from appliance.catalogue import corrections, training
    from appliance.catalogue.connection import now
    from workers.sidecar.places import Places

    with reading(config) as (settings, connection):
        ledger = Places(settings.data_dir).ledger
        learned_at = {entry.package: ledger.learned_at(entry.package) for entry in ledger.entries()}
        told = {
            "cases": training.counts(connection, kept_since(settings, now()), learned_at),
            "withdrawn": training.withdrawn_counts(connection),
            "came_back": corrections.counts(connection),
            "opted_out": training.opted_out_count(connection),
        }
    if json:
        print_json(told)
    else:
        _print(told)


def _print(told: dict[str, Any]) -> None:
    columns = ("package", "scanner", "source", "cases", "patients", "for_training", "held_back", "new")
    rows = [[one[name] for name in columns] for one in told["cases"]]
    print_table([name.replace("_", " ") for name in columns], rows)
    for package, reasons in told["withdrawn"].items():
        for reason, number in reasons.items():
            console.print(f"{package}: {number} withdrawn: {reason}", markup=False)
    for package, states in told["came_back"].items():
        counted = ", ".join(f"{number} {state.replace('_', ' ')}" for state, number in sorted(states.items()))
        console.print(f"{package}: came back: {counted}", markup=False)
    console.print(f"{told['opted_out']} patients opted out")


def label_import(
    package: Annotated[str, typer.Argument(help="Package that is to learn from them.")],
    paths: Annotated[
        list[Path], typer.Argument(help="SEG or RTSTRUCT files, folders of them, or folders with images/ and labels/.")
    ],
    author: Annotated[str, typer.Option(help="Who drew the labels; else as the files say.")] = "",
    scanner: Annotated[str, typer.Option(help="Which machine made NIfTI images: judged by itself.")] = "",
    images: Annotated[Path | None, typer.Option(help="Folder of images that the appliance does not hold.")] = None,
    numbers: Annotated[str, typer.Option("--map", help='What numbers in NIfTI files are: "1=1,2=2".')] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Keep labels that people drew elsewhere as cases to learn from; one line for each file that is not kept."""
    from appliance.catalogue import open_catalogue, training
    from workers.label_import import begin

    settings = load(config)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        found = list(begin(settings, catalogue, package, author, scanner, numbers, images).run(paths))
    finally:
        catalogue.close()
    refused = [one for one in found if one.reason and one.reason != training.KNOWN]
    if json:
        print_json([asdict(one) for one in found])
    for one in [] if json else refused:
        complain(f"{one.file}: {one.reason}")
    if not json:
        known = sum(one.reason == training.KNOWN for one in found)
        cases = sum(one.cases for one in found)
        console.print(f"{cases} cases kept; of {len(found)} files {known} were known and {len(refused)} not kept")
    if refused or not found:
        raise typer.Exit(1)


def opt_out(
    patient: Annotated[str, typer.Argument(help="Patient ID, as in the images; only a hash of it is kept.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, in a sentence; it goes on record.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let labels of this patient be kept again.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Learn nothing of a patient: cases are withdrawn, their files deleted, and no label is kept from now on."""
    from appliance.catalogue import open_catalogue
    from dicom_nodes.instance_reader import key_of_patient_id
    from workers.kept_cases import opt_in, opt_out

    settings = load(config)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    hashed = patient_hash(settings, key_of_patient_id(patient))
    try:
        if undo and not opt_in(catalogue, hashed, reason):
            raise Missing("this patient had not opted out")
        withdrawn = 0 if undo else opt_out(settings, catalogue, hashed, reason)
    finally:
        catalogue.close()
    if json:
        print_json({"patient": hashed, "opted_out": not undo, "withdrawn": withdrawn})
    elif undo:
        console.print("labels of this patient may be kept again; what was withdrawn stays withdrawn")
    else:
        console.print(f"opted out; {withdrawn} cases were withdrawn and their files deleted")


def add_to(app: typer.Typer) -> None:
    """Add these commands to `curie federation`."""
    app.command()(data)
    app.command("label-import")(label_import)
    app.command("opt-out")(opt_out)

"""`curie models import-bundle | new`: making packages. Neither installs anything."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table
from appliance.errors import Missing, SettingsError


def import_bundle(
    source: Annotated[Path, typer.Argument(help="Folder of a MONAI bundle, the one that holds configs/.")],
    out: Annotated[Path, typer.Option(help="Folder for the package; it must not be there yet.")],
    id: Annotated[str, typer.Option(help="Name of the package; else from the bundle's folder.")] = "",
    version: Annotated[str, typer.Option(help="Version, e.g. 1.0.0; else the bundle's.")] = "",
    title: Annotated[str, typer.Option(help="Begins the Series Description of results, at most 40 characters.")] = "",
    pathway: Annotated[str, typer.Option(help="Clinical question it belongs to.")] = "imported",
    licence: Annotated[str, typer.Option(help="Licence; else what the bundle says.")] = "",
    modality: Annotated[str, typer.Option(help="Modality it reads, e.g. CT; else what the bundle says.")] = "",
    sop_class: Annotated[list[str] | None, typer.Option(help="SOP Class UID it reads; may be repeated.")] = None,
    axcodes: Annotated[str, typer.Option(help="Axes of its training files, where it has no Orientationd.")] = "",
    spacing: Annotated[str, typer.Option(help="mm of its training files, e.g. 1,1,1, where it has no Spacingd.")] = "",
    codes: Annotated[Path | None, typer.Option(help="JSON file: codes of segments or classes by name.")] = None,
    nesting: Annotated[str, typer.Option(help="Channels of nested regions, the outermost first, e.g. 1,0,2.")] = "",
    positive: Annotated[str, typer.Option(help="Class of a classifier that is a finding.")] = "",
    threshold: Annotated[float | None, typer.Option(help="Probability from which it is one.", min=0, max=1)] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="A step not to be read, e.g. postprocessing::transforms::3; may be repeated."),
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,  # noqa: ARG001 - every command takes it
) -> None:
    """Turn a MONAI bundle into a package: its configuration is read as data, nothing of it is run."""
    from models.bundle.declaring import Said
    from models.bundle_import import import_bundle as imported

    said = Said(
        id, version, title, pathway, licence, modality, tuple(sop_class or ()), axcodes,
        numbers("--spacing", spacing, float), read_codes(codes), numbers("--nesting", nesting, int), positive,
        threshold, frozenset(leave_out or ()),
    )  # fmt: skip
    if not json:
        console.print("converting; minutes where the network's window is large")
    report = imported(source, out, said)
    if json:
        print_json(report)
    else:
        print_report(report)


def new(
    folder: Annotated[Path, typer.Argument(help="Folder for the beginnings; empty or not there.")],
    origin: Annotated[Literal["torch", "onnx"], typer.Option("--from", help="A network by name, or a graph.")],
    graph: Annotated[Path | None, typer.Option(help="The ONNX file, with --from onnx.")] = None,
    id: Annotated[str, typer.Option(help="Name of the package; else from the folder.")] = "",
    modality: Annotated[str, typer.Option(help="Modality it reads, e.g. CT or MR.")] = "MR",
    segments: Annotated[str, typer.Option(help="Structures it shows, e.g. liver,spleen (after background).")] = "",
    classes: Annotated[str, typer.Option(help="Classes it tells apart, e.g. normal,abnormal; needs --codes.")] = "",
    codes: Annotated[Path | None, typer.Option(help="JSON file: codes of segments or classes by name.")] = None,
    roi: Annotated[str, typer.Option(help="Window of the network, e.g. 96,96,96; else the graph's.")] = "",
    spacing: Annotated[str, typer.Option(help="mm to resample to, e.g. 1.5,1.5,2; else none.")] = "",
    channels: Annotated[int, typer.Option(help="Series that it reads together.", min=1, max=8)] = 1,
    json: JsonOption = False,
    config: ConfigOption = None,  # noqa: ARG001 - every command takes it
) -> None:
    """Begin a package: package.json, card.md and a make.py to fill in. docs/models.md leads through it."""
    from models.starter import Wanted, graph_says, slug, write_starter

    if (origin == "onnx") != (graph is not None):
        raise SettingsError("--from: either torch, or onnx together with --graph FILE")
    shape = numbers("--roi", roi, int)
    named, told = words(segments), words(classes)
    if graph is not None:
        channels, window, answers = graph_says(graph)
        if shape and shape != window:
            raise SettingsError(f"--roi: {graph.name} takes windows of {window}")
        shape = window
        if answers != (len(named) + 1 if named else len(told)):
            raise SettingsError(f"{graph.name} answers with {answers} channels: name {answers - 1} --segments beside "
                                f"background, or {answers} --classes")  # fmt: skip
    wanted = Wanted(origin, id or slug(folder), modality, named, told, shape, numbers("--spacing", spacing, float),
                    channels, read_codes(codes))  # fmt: skip
    steps = write_starter(folder, wanted, graph)
    if json:
        print_json({"package": wanted.id, "folder": str(folder), "next": steps})
        return
    console.print(f"{wanted.id} begun in {folder}. Next:", markup=False)
    for number, one in enumerate(steps, start=1):
        console.print(f"  {number}. {one}", markup=False)


def words(text: str) -> tuple[str, ...]:
    """Return the names of "liver, spleen"."""
    return tuple(one for part in text.split(",") if (one := part.strip()))


def numbers(option: str, text: str, kind: type[Any]) -> tuple[Any, ...]:
    """Return the numbers of "1,0,2"; SettingsError names the option."""
    try:
        return tuple(kind(one) for one in text.split(",")) if text else ()
    except ValueError:
        raise SettingsError(f"{option}: {text!r} is not numbers with commas between") from None


def read_codes(path: Path | None) -> dict[str, Any]:
    """Return the codes of a JSON file by name; Missing or SettingsError names it."""
    if path is None:
        return {}
    try:
        found = jsonlib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Missing(f"--codes: {path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise SettingsError(f"--codes: {path} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise SettingsError(f"--codes: {path} holds no JSON object")
    return found


def print_report(report: dict[str, Any]) -> None:
    """Print what an import found, and what comes next."""
    console.print(f"{report['package']} in {report['folder']}, digest {report['digest']}", markup=False)
    console.print("\nEngines on the golden case:")
    print_table(("engine", "differs by (of the range)", "flips", "verdict"), [engine_row(e) for e in report["engines"]])
    console.print(f"\nAgainst MONAI's own pipeline on a made-up volume: {in_words(report['monai'])}", markup=False)
    for one in report["differences"]:
        console.print(f"  - {one}", markup=False)
    console.print(f"\nconverted with: {'; '.join(report['confined'])}", markup=False)
    console.print("\nNot validated here. Next:")
    for one in report["next"]:
        console.print(f"  {one}", markup=False)


def engine_row(engine: dict[str, Any]) -> tuple[str, ...]:
    """Return one engine's row."""
    name = f"{engine['rung']} {engine['precision']}".strip()
    if not engine["cases"]:
        return (name, "", "", engine["reason"])
    farthest = max(one["largest_of_range"] for one in engine["cases"])
    flips = max(one["flips"] or 0.0 for one in engine["cases"])
    return (name, f"{farthest:.1e}", f"{flips:.1e}", engine["reason"] or "agrees")


def in_words(monai: dict[str, Any]) -> str:
    """Return how a package compares with MONAI's own pipeline."""
    if "probability" in monai:
        return f"probabilities differ by {monai['probability']:.1e} at most"
    parts = ", ".join(f"segment {number} {value:.4f}" for number, value in monai["dice"].items())
    return f"{monai['flips']:.1e} of {monai['voxels']} voxels labelled otherwise; Dice {parts or 'of nothing found'}"


def add_to(app: typer.Typer) -> None:
    """Put these commands beside the others of `curie models`."""
    app.command("import-bundle")(import_bundle)
    app.command("new")(new)

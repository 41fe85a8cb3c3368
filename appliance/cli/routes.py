"""`curie routes …`: which routes would match, and why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.models import registry
from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table
from appliance.errors import CurieError, Missing
from appliance.settings import load
from appliance.study import StudySummary

if TYPE_CHECKING:
    from models.registry import Registry

app = typer.Typer(no_args_is_help=True, help="Routes: which studies go to which package.")


@app.command("list")
def list_routes(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the routes in the settings."""
    found = [one.model_dump(mode="json") for one in load(config).routes]
    if json:
        print_json(found)
        return
    rows = [(r["name"], r["package"], ", ".join(r["destinations"]), r["match"], r["priority"]) for r in found]
    print_table(("route", "package", "destinations", "match", "priority"), rows)


@app.command("test")
def test_routes(
    path: Annotated[list[Path], typer.Argument(help="DICOM files or folders of them.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say for files which routes would match, and why not. Nothing is sent or stored."""
    with registry(config) as opened:
        found = [_decided(opened, study) for study in read_studies(path)]
    if json:
        print_json(found)
        return
    for study in found:
        console.print(f"study {study['study_instance_uid']}: {study['series']} series, {study['images']} images")
        for one in study["routes"]:
            text = f"  {one['route']} → {one['package']}: {one['outcome']} {one['reason']}{one['series_instance_uid']}"
            console.print(text, markup=False)
            for seen in one["candidates"]:
                mark = "→" if seen["chosen"] else " "
                said = seen["reason"] or f"score {seen['score']:g}"
                console.print(f"    {mark} {seen['input']}: {seen['series_instance_uid']}: {said}", markup=False)


def _decided(opened: Registry, study: StudySummary) -> dict[str, Any]:
    from appliance.routing import RouteDecision, decide

    routes = []
    for route in opened.settings.routes:
        try:
            decision = decide(study, route.match, opened.routed(route.package).requirements)
        except CurieError as error:
            decision = RouteDecision("failed", str(error))
        routes.append(
            {
                "route": route.name,
                "package": route.package,
                "outcome": "would run on series" if decision.outcome == "job" else decision.outcome,
                "reason": decision.reason,
                "series_instance_uid": decision.series_instance_uid,
                "inputs": dict(decision.series),
                "candidates": [asdict(one) for one in decision.candidates],
            }
        )
    return {
        "study_instance_uid": study.study_instance_uid,
        "series": len(study.series),
        "images": sum(len(series.instances) for series in study.series),
        "routes": routes,
    }


def files_under(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files named, and those in the folders named. Raises Missing for a path that is not there."""
    for path in paths:
        if not path.exists():
            raise Missing(f"there is nothing at {path}")
        yield from sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def read_studies(paths: Sequence[Path]) -> list[StudySummary]:
    """Return the studies of DICOM files as routing sees them. Raises Missing when there is no image."""
    from dicom_nodes.offline import summarise

    files = list(files_under(paths))
    studies = summarise(files)
    if not studies:
        raise Missing(f"no DICOM image among {len(files)} files; name a folder of DICOM files")
    return studies

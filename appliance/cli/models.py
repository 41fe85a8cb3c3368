"""`curie models …`: the packages on this appliance."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table
from appliance.settings import Settings, load

app = typer.Typer(no_args_is_help=True, help="Model packages.")


def listing(settings: Settings) -> list[dict[str, Any]]:
    """Return package, version, state, backend and digest of every installed package (CONTRACT: `status`)."""
    from models.registry import active_package, installed_packages

    records = []
    for package in installed_packages(settings.data_dir):
        active = active_package(package.id, settings.data_dir).digest == package.digest
        records.append(
            {
                "package": package.id,
                "version": package.version,
                "state": "active" if active else "installed",
                "backend": _backend(settings, package.id, package.version),
                "digest": package.digest,
            }
        )
    return records


def _backend(settings: Settings, package: str, version: str) -> str:
    """Return the rung that the last job of this package ran on, "" before the first."""
    from appliance.catalogue import open_catalogue, overview

    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        with catalogue.read() as connection:
            return overview.last_engine(connection, package, version)
    finally:
        catalogue.close()


@app.command("list")
def list_models(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the installed packages."""
    found = listing(load(config))
    if json:
        print_json(found)
        return
    rows = [(m["package"], m["version"], m["state"], m["backend"], m["digest"][:12]) for m in found]
    print_table(("package", "version", "state", "backend", "digest"), rows)


@app.command("show")
def show_model(
    package: Annotated[str, typer.Argument(help='"brain-structures" or "brain-structures@1.0.0".')],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one package: what it reads, what it finds, its card."""
    from models.registry import active_package

    found = active_package(package, load(config).data_dir)
    if json:
        print_json({"digest": found.digest, "folder": str(found.folder), **found.manifest.model_dump(mode="json")})
        return
    from rich.markdown import Markdown

    console.print(f"{found.id}@{found.version}  digest {found.digest}", markup=False)
    console.print(Markdown((found.folder / "card.md").read_text(encoding="utf-8")))

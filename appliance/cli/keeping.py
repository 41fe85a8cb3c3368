"""`curie backup | restore | downgrade`: a copy of what cannot be made anew, and the ways back."""

from __future__ import annotations

import getpass
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.output import ConfigOption, JsonOption, complain, console, print_json
from appliance.errors import Missing, SettingsError
from appliance.settings import Settings, find_file, load

if TYPE_CHECKING:
    from appliance.catalogue import Catalogue

MOMENT = "[0-9]" * 8 + "T" + "[0-9]" * 12 + "Z"  # UTC, as `backup` writes it


def backup(
    folder: Annotated[Path, typer.Argument(help="Where curie-NAME-TIME.tar goes; another disk than the data's.")],
    images: Annotated[bool, typer.Option(help="With the spool: images that were received.")] = True,
    keep: Annotated[
        int, typer.Option(help="Delete all but so many of this appliance's newest there; 0: none.", min=0)
    ] = 0,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write catalogue, spool, results, training set, packages and keys into one file, while everything runs."""
    from appliance import backup as copies
    from appliance.catalogue import events, open_catalogue

    file = find_file(config)
    settings = load(file)
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder; make it first, readable by the user of curie alone")
    target = folder / f"{own_name(settings)}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z.tar"
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        made = copies.write(settings, file, catalogue, target, images=images)
        with catalogue.write() as connection:
            events.record(connection, "backup_written", who=getpass.getuser(), files=len(made.files), images=images)
    finally:
        catalogue.close()
    for old in sorted(folder.glob(f"{own_name(settings)}-{MOMENT}.tar"))[:-keep] if keep else []:
        old.unlink()
    for path in outside(settings):
        complain(f"not in the backup, keep a copy of it: {path}")
    if json:
        print_json({"path": str(target.absolute()), "files": len(made.files), "bytes": made.size, "gone": made.gone})
        return
    console.print(f"wrote {target}: {len(made.files)} files, {made.size / 1e6:.1f} MB; it holds keys", markup=False)


def own_name(settings: Settings) -> str:
    """Return how the backups of this appliance begin, and of no other: many are called alike."""
    name = re.sub(r"[^a-z0-9]+", "-", settings.appliance.name.lower()).strip("-")[:40] or "appliance"
    return f"curie-{name}-{hashlib.sha256(settings.appliance_uid.encode()).hexdigest()[:6]}"


def outside(settings: Settings) -> list[Path]:
    """Return the files that settings name and that lie elsewhere than in data_dir."""
    tls = settings.receiver.tls
    named = [*settings.models.trusted_keys, *((tls.certificate, tls.key, tls.ca) if tls else ())]
    named += [settings.federation.kit] if settings.federation else []
    return [Path(one) for one in named if one and not Path(one).is_relative_to(settings.data_dir)]


def restore(
    file: Annotated[Path, typer.Argument(help="What `curie backup` wrote.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Put a backup into an empty data_dir and catalogue, be it another database; every file is checked first."""
    from appliance import backup as copies
    from appliance.catalogue import events, open_catalogue
    from appliance.supervisor import claim_folder

    try:
        settings = load(config)
    except SettingsError as error:
        raise SettingsError(f"{error}; `tar -xf {file} {copies.SETTINGS}` gives you the one of then") from None
    if not file.is_file():
        raise Missing(f"{file} is no file; name one that `curie backup` wrote, curie-NAME-TIME.tar")
    with claim_folder(settings.data_dir):
        told = copies.restore(settings, file, lambda: open_catalogue(settings.catalogue_url, settings.data_dir))
        catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
        with catalogue.write() as connection:
            events.record(connection, "backup_restored", who=getpass.getuser(), of=told["at"], images=told["images"])
        catalogue.close()
    if json:
        print_json({name: told[name] for name in ("at", "version", "schema", "images")} | {"files": len(told["files"])})
        return
    console.print(f"restored {len(told['files'])} files of {told['at']}; now `curie doctor`, then `curie up`")


def downgrade(
    schema: Annotated[str, typer.Argument(help="What the older version knows; its `curie up` names it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be lost.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Bring the catalogue back to an older schema, so that an older version of curie can be installed again."""
    from appliance.catalogue import events, open_catalogue
    from appliance.supervisor import claim_folder

    settings = load(config)
    with claim_folder(settings.data_dir):
        catalogue = open_catalogue(settings.catalogue_url, settings.data_dir, moving=yes)
        try:
            _refuse_while_running(catalogue)
            lost = catalogue.only_since(schema)
            if yes:
                catalogue.move(schema)
                with catalogue.write() as connection:
                    events.record(connection, "schema_downgraded", who=getpass.getuser(), schema=schema, lost=lost)
        finally:
            catalogue.close()
    if json:
        print_json({"schema": schema, "done": yes, "lost": lost})
    else:
        rows = ", ".join(f"{count} of {name}" for name, count in lost.items()) or "none"
        word = "now install the version that knows it" if yes else "`curie backup` first, then the same with --yes"
        console.print(f"rows that schema {schema} cannot hold: {rows}; {word}", markup=False)


def _refuse_while_running(catalogue: Catalogue) -> None:
    from appliance.catalogue import processes
    from appliance.catalogue.connection import now

    with catalogue.read() as connection:
        running = sorted(one["name"] for one in processes.listing(connection, now()) if one["healthy"])
    if running:
        raise Missing(f"{', '.join(running)} still run on this catalogue; stop them first, then run this again")

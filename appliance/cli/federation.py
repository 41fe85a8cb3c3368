"""`curie federation …`: joining, pausing and watching federated rounds, at a site and at the coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table
from appliance.errors import Missing, SettingsError
from appliance.federation_settings import Coordinator, Federation
from appliance.settings import Settings, load

app = typer.Typer(no_args_is_help=True, help="Federated learning: rounds in which weights travel and images stay.")


def _site(settings: Settings) -> Federation:
    if settings.federation is None:
        raise SettingsError(
            "there is no [federation] in the settings; it names coordinator, kit (a folder) and packages"
        )
    return settings.federation


def _central(settings: Settings) -> Coordinator:
    if settings.coordinator is None:
        raise SettingsError("there is no [coordinator] in the settings; only the central side has one")
    return settings.coordinator


def _say(record: dict[str, Any], text: str, *, json: bool) -> None:
    """Print what was done: the record, or a sentence."""
    if json:
        print_json(record)
    else:
        console.print(text, markup=False)


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="Name of the site: small letters, digits, hyphens.")],
    out: Annotated[Path, typer.Option(help="Folder for the kit.")] = Path("."),
    revoke: Annotated[bool, typer.Option("--revoke", help="Ask this site no more.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a kit for a site (at the coordinator); once more for the same site: new certificates."""
    from workers.coordinator import kits

    settings = load(config)
    if revoke:
        kits.revoke(site, settings.data_dir)
        _say({"site": site, "revoked": True}, f"{site} is asked no more", json=json)
        return
    made = kits.invite(site, settings.data_dir, _central(settings), out)
    text = f"wrote {made}: it holds the site's private key; hand it over on a way that nobody else reads"
    _say({"site": site, "kit": str(made.absolute())}, text, json=json)


@app.command()
def join(
    kit: Annotated[Path, typer.Argument(help="The kit: a .zip, or its folder.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what joining allows, ask, and put the kit into its place."""
    from workers.sidecar import joining

    own = _site(load(config))
    found = joining.read_kit(kit)
    allowed = joining.allowed(found, own)
    for line in [] if json else allowed:
        console.print(line, markup=False)
    if not yes and not typer.confirm("Join?"):
        raise typer.Exit(1)
    joining.join(found, own)
    key = own.kit / "publisher.pub"
    told = {"joined": True, "allows": allowed, "publisher_key": str(key)}
    _say(told, f"joined. To try its packages, add {key} to models.trusted_keys", json=json)


@app.command()
def leave(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Remove kit and certificates; a round that runs here ends. The ledger stays."""
    from workers.sidecar import joining
    from workers.sidecar.places import Places

    settings = load(config)
    joining.leave(_site(settings), Places(settings.data_dir).engine)
    _say({"joined": False}, "left; tell the coordinator, who still lists this site", json=json)


@app.command()
def pause(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Sit out all rounds until `resume`."""
    _pause(config, paused=True, json=json)


@app.command()
def resume(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Take part again."""
    _pause(config, paused=False, json=json)


def _pause(config: Path | None, *, paused: bool, json: bool) -> None:
    from workers.sidecar.places import Places

    settings = load(config)
    _site(settings)
    mark = Places(settings.data_dir).paused
    mark.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    if paused:
        mark.touch()
    else:
        mark.unlink(missing_ok=True)
    text = "paused: every round is answered with an abstention" if paused else "takes part again"
    _say({"paused": paused}, text, json=json)


@app.command()
def coordinate(
    package: Annotated[str, typer.Argument(help="Which package; default: all of [coordinator] packages.")] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Begin a cycle of rounds now (at the coordinator, whose process must be running)."""
    from workers.coordinator.triggers import ask_for

    settings = load(config)
    wanted = (package,) if package else _central(settings).packages
    if not wanted:
        raise SettingsError("coordinator.packages is empty: name a package")
    if not _is_running("coordinator", settings):
        raise Missing("no coordinator is running: `curie run coordinator`")
    for one in wanted:
        ask_for(one, settings.data_dir)
    text = f"asked for {', '.join(wanted)}; `curie federation rounds` shows how it goes"
    _say({"asked_for": list(wanted)}, text, json=json)


def _is_running(name: str, settings: Settings) -> bool:
    from appliance.catalogue import open_catalogue, processes
    from appliance.catalogue.connection import now

    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        with catalogue.read() as connection:
            return any(one["name"] == name and one["healthy"] for one in processes.listing(connection, now()))
    finally:
        catalogue.close()


@app.command()
def rounds(
    package: Annotated[str, typer.Argument(help="Which package; default: all.")] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the rounds of the coordinator's lineage: who counted, who did not and why."""
    from workers.coordinator.telling import told_of

    settings = load(config)
    _central(settings)
    told = told_of(settings.data_dir, package)
    if json:
        print_json(told)
        return
    for cycle in told:
        console.print(f"{cycle['package']} {cycle['cycle']}: {cycle['state']} {cycle['candidate']}{cycle['why']}")
        print_table(("round", "counted", "refused", "abstained", "not heard", "s"), [_row(r) for r in cycle["rounds"]])


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    refused = "; ".join(f"{site}: {why}" for site, why in one["refused"].items())
    abstained = "; ".join(f"{site}: {why}" for site, why in one["abstained"].items())
    counted = ", ".join(f"{site} ({of['cases']})" for site, of in one["sites"].items())
    return one["round"], counted, refused, abstained, ", ".join(one["silent"]), one["seconds"]


@app.command()
def status(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show how this site takes part: joined, paused, what left, privacy spent, and how far each candidate is."""
    from workers.sidecar.telling import told_of

    settings = load(config)
    told = told_of(settings, _site(settings)) | {"running": _is_running("sidecar", settings)}
    if json:
        print_json(told)
        return
    state = "paused" if told["paused"] else "running" if told["running"] else "NOT RUNNING"
    console.print(f"site {told['site'] or 'not joined'}: {state}, coordinator {told['coordinator']}", markup=False)
    console.print(f"certificate ends in {told['certificate_days']} days")
    for package in told["packages"]:
        console.print(
            f"{package['package']}: {package['cases']} cases, ε {package['epsilon']:.2f} of {told['epsilon_budget']:g}"
        )
    for one in told["candidates"]:
        console.print(f"{one['package']}@{one['version']} {one['state']}: {one['reason']}", markup=False)
        shown = [(s["structure"], s["scanner"], s["cases"], s["active"], s["candidate"]) for s in one["scores"]]
        if shown:
            print_table(("structure", "scanner", "held-back cases", "Dice, active", "Dice, candidate"), shown)
    print_table(("at", "package", "cycle", "round", "what", "bytes", "detail"), [_left(one) for one in told["left"]])


def _left(one: dict[str, Any]) -> tuple[object, ...]:
    return one["at"], one["package"], one["cycle"], one["round"], one["what"], one["bytes"], one["detail"]


@app.command("dry-run")
def dry_run(
    package: Annotated[str, typer.Argument(help="Which package; default: the first of [federation] packages.")] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Train one step here and show every tensor and byte that would leave; nothing does."""
    from workers.sidecar.rehearsal import rehearse

    settings = load(config)
    wanted = package or next(iter(_site(settings).packages), "")
    if not wanted:
        raise SettingsError("federation.packages is empty: name what may be trained here")
    told = rehearse(settings, wanted)
    if json:
        print_json(told)
        return
    console.print(f"the policy says: {told['abstains'] or 'take part'}", markup=False)
    print_table(("tensor", "shape", "type", "bytes"), [tuple(one.values()) for one in told["tensors"]])
    console.print(f"{told['bytes']} bytes in all; beside the tensors: {told['beside']}", markup=False)

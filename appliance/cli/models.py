"""`curie models …`: the packages on this appliance, what they run on, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table
from appliance.settings import Settings, load

if TYPE_CHECKING:
    from appliance.package_life import VersionRow
    from models.package import Package
    from models.registry import Registry

app = typer.Typer(no_args_is_help=True, help="Model packages.")
NameArgument = Annotated[
    str, typer.Argument(help='"brain-structures" (the active version) or "brain-structures@1.0.0".')
]
SourceArgument = Annotated[Path, typer.Argument(help="Folder of a package, or a .zip of one.")]


@contextmanager
def registry(config: Path | None) -> Iterator[Registry]:
    """Open the packages of this appliance."""
    from appliance.catalogue import open_catalogue
    from models.registry import open_registry

    settings = load(config)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        yield open_registry(settings, catalogue)
    finally:
        catalogue.close()


def listing(settings: Settings) -> list[dict[str, Any]]:
    """Return every version with its state, engine and digest (CONTRACT: `status`)."""
    from appliance.catalogue import open_catalogue
    from models.registry import open_registry

    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        opened = open_registry(settings, catalogue)
        return [record(opened, row) for row in opened.versions()]
    finally:
        catalogue.close()


def record(opened: Registry, row: VersionRow) -> dict[str, Any]:
    """Return one version as it is shown: with the engine of the host that loaded it last."""
    from appliance.catalogue import packages

    with opened.catalogue.read() as connection:
        reports = packages.engine_reports(connection, row.digest)
    last = reports[0] if reports else None
    return {
        "package": row.package,
        "version": row.version,
        "state": row.state,
        "backend": f"{last['engine']} {last['precision']}" if last else "",
        "skipped": [{"rung": rung, "reason": reason} for rung, reason in last["skipped"]] if last else [],
        "digest": row.digest,
        "signer": row.signer,
        "unsigned": not row.signer,
    }


@app.command("list")
def list_models(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the versions that are here and their places: installed, candidate, shadow, active, retired."""
    found = listing(load(config))
    if json:
        print_json(found)
        return
    rows = [
        (m["package"], m["version"], m["state"], m["backend"], m["digest"][:12], m["signer"][:12] or "UNSIGNED")
        for m in found
    ]
    print_table(("package", "version", "state", "backend", "digest", "signed by"), rows)


@app.command("show")
def show_model(name: NameArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one package: its card, what it reads, the engine in use and why not another, and who changed its place."""
    from appliance.cli.model_card import card_record, print_card

    with registry(config) as opened:
        told = card_record(opened, opened.row(name))
    if json:
        print_json(told)
    else:
        print_card(told)


@app.command("key")
def make_key(
    file: Annotated[Path, typer.Argument(help="Where the private key goes, e.g. publisher.key.")],
    json: JsonOption = False,
    config: ConfigOption = None,  # noqa: ARG001 - every command takes it
) -> None:
    """Make a key to sign packages with; give its .pub file to those who are to trust you."""
    from models.signing import key_id, read_public_key
    from models.signing import make_key as make

    public = make(file)
    told = {"key": key_id(read_public_key(public)), "private": str(file), "public": str(public)}
    if json:
        print_json(told)
    else:
        console.print(f"key {told['key']} in {file}; public part in {public}", markup=False)


@app.command("sign")
def sign_model(
    source: Annotated[Path, typer.Argument(help="Folder of a package.")],
    key: Annotated[Path | None, typer.Option(help="Private key; else this site's own, made on first use.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write MANIFEST.json over the files of a package as they are now, and sign it."""
    from models.package import sign_package
    from models.signing import key_id, make_key, read_private_key, site_key

    if key is None:
        key = site_key(load(config).data_dir)
        if not key.exists():
            make_key(key)
    private = read_private_key(key)
    told = {"folder": str(source), "digest": sign_package(source, private), "key": key_id(private.public_key())}
    if json:
        print_json(told)
    else:
        console.print(f"{source}: digest {told['digest']}, signed by {told['key']} ({key})", markup=False)


@app.command("verify")
def verify_model(source: SourceArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Check signature, every byte, graph, weights and golden cases of a package; install nothing."""
    import tempfile

    from models.archive import unpacked
    from models.package import load_signed
    from models.signing import trust_of

    trust = trust_of(load(config))
    with tempfile.TemporaryDirectory() as staging, unpacked(source, Path(staging)) as folder:
        package = load_signed(folder, trust)
        _inspect(package)
    who = trust.names.get(package.signer, "nobody")
    told = {"package": package.id, "version": package.version, "digest": package.digest, "signer": package.signer,
            "signed_by": who}  # fmt: skip
    if json:
        print_json(told)
    else:
        console.print(f"{package.name}: signed by {who} ({package.signer[:16]}), digest {package.digest}", markup=False)


@app.command("install")
def install_model(
    source: SourceArgument,
    allow_rollback: Annotated[bool, typer.Option(help="Take a version older than the active one.")] = False,
    build: Annotated[bool, typer.Option(help="Put it through the gate on this host at once.")] = True,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check a package and keep it. It runs on nothing until it is promoted (or put in shadow)."""
    with registry(config) as opened:
        row, new = opened.install(source, _inspect, allow_rollback=allow_rollback)
        if build and row.state == "installed":
            _put_through(opened, row)
        told = record(opened, opened.row(row.name))
    if json:
        print_json(told)
        return
    console.print(
        f"{row.name}: {told['state']}" if new else f"{row.name} is here already: {told['state']}", markup=False
    )
    if told["unsigned"]:
        console.print("[bold]warning:[/] it is UNSIGNED; models.allow_unsigned lets it in")
    _print_engine(told)


def _inspect(package: Package) -> None:
    """Look into graph and weights; the libraries for it are loaded only where the signature was right."""
    from models.gate import inspect

    inspect(package)


@app.command("build")
def build_model(name: NameArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Build a version's engines on this host and hold them against its golden cases; it becomes a candidate."""
    with registry(config) as opened:
        row = opened.row(name)
        _put_through(opened, row)
        told = record(opened, opened.row(row.name))
    if json:
        print_json(told)
    else:
        console.print(f"{row.name}: {told['state']}", markup=False)
        _print_engine(told)


@app.command("benchmark")
def benchmark_model(
    name: NameArgument,
    runs: Annotated[int, typer.Option(help="Timed windows of each engine.", min=1, max=1000)] = 10,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Time one window of a version on every rung of this host, and say how near each comes to the golden cases."""
    from models.engines import Place
    from models.timing import timings

    with registry(config) as opened:
        package, worker = opened.package(name), opened.settings.worker
        found = timings(package, worker.backends, Place(worker.device, opened.settings.data_dir / "engines"), runs)
    if json:
        print_json(found)
        return
    rows = [(one["rung"], one["precision"], one["window_ms"] or "–", one["reason"] or "agrees") for one in found]
    print_table(("rung", "precision", "ms a window", "golden cases"), rows)


def _put_through(opened: Registry, row: VersionRow) -> None:
    from workers.gate import put_through

    put_through(opened, row)


def _print_engine(told: dict[str, Any]) -> None:
    if told["backend"]:
        console.print(f"  runs on {told['backend']}", markup=False)
    for one in told["skipped"]:
        console.print(f"  not on {one['rung']}: {one['reason']}", markup=False)

"""What `curie models show` tells of one version: card, inputs, outputs, engines, history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.catalogue import packages
from appliance.catalogue.overview import iso
from appliance.cli.output import console, print_table

if TYPE_CHECKING:
    from appliance.package_life import VersionRow
    from models.registry import Registry


def card_record(opened: Registry, row: VersionRow) -> dict[str, Any]:
    """Return everything that is known of a version."""
    package = opened.load(row)
    with opened.catalogue.read() as connection:
        reports = packages.engine_reports(connection, row.digest)
        changes = packages.changes(connection, row.package)
    return {
        **package.manifest.model_dump(mode="json"),
        "digest": row.digest,
        "state": row.state,
        "signer": row.signer,
        "folder": str(package.folder),
        "engines": [{**one, "at": iso(one["at"])} for one in reports],
        "history": [{**vars(one), "asked_at": iso(one.asked_at), "done_at": iso(one.done_at)} for one in changes],
        "card": (package.folder / "card.md").read_text(encoding="utf-8", errors="replace"),
    }


def print_card(told: dict[str, Any]) -> None:
    """Print a version for a person."""
    from rich.markdown import Markdown

    signed = told["signer"][:16] or "nobody: UNSIGNED"
    console.print(f"{told['id']}@{told['version']}  {told['state']}  signed by {signed}", markup=False)
    console.print(f"digest {told['digest']}\n", markup=False)
    console.print(Markdown(told["card"]))
    _print_reads(told)
    _print_engines(told["engines"])
    _print_history(told["history"])


def _print_reads(told: dict[str, Any]) -> None:
    rows = []
    for one in told["inputs"]:
        need = one["requirement"]
        rows.append((one["name"], need["modality"], f"{need['min_slices']} or more slices", need["volumes"]))
    console.print()
    print_table(("input", "modality", "slices", "volumes"), rows)
    outputs = told["outputs"]
    named = outputs.get("segments") or outputs.get("classes") or [one["name"] for one in outputs.get("values", [])]
    names = ", ".join(one.get("name") or one.get("meaning") for one in named)
    console.print(f"\n{outputs['kind']}: {names}", markup=False)
    if told["locator"]:
        console.print(f"looks where {told['locator']['package']} found its segments", markup=False)


def _print_engines(engines: list[dict[str, Any]]) -> None:
    console.print()
    for one in engines:
        memory = f", peak {one['memory_mb']:.0f} MB" if one["memory_mb"] else ""
        console.print(f"on {one['host']} ({one['device']}): {one['engine']} {one['precision']}{memory}", markup=False)
        for golden in one["parity"]:
            figures = [f"{golden['largest_of_range']:.1e} of the range"]
            figures += [f"{golden['flips']:.1e} flips"] if golden["flips"] is not None else []
            figures += [f"probability {golden['probability']:.1e}"] if golden["probability"] is not None else []
            console.print(f"  {golden['case']}: differs by {', '.join(figures)}", markup=False)
        for rung, reason in one["skipped"]:
            console.print(f"  not on {rung}: {reason}", markup=False)
    if not engines:
        console.print("not loaded on any host yet; `curie models build` does it")


def _print_history(history: list[dict[str, Any]]) -> None:
    rows = [
        (one["done_at"] or "waits", one["kind"], one["before"] or "–", one["after"] or "–",
         " and ".join(filter(None, (one["person"], one["second_person"]))), one["reason"])
        for one in history
    ]  # fmt: skip
    console.print()
    if rows:
        print_table(("when", "what", "from", "to", "by", "reason"), rows)

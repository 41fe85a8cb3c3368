"""`curie audit …`: is the record of what happened still what was recorded? And the record, to take away."""

from __future__ import annotations

import getpass
import json as encoding
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.audit import BEGINNING, link
from appliance.catalogue import audit, events
from appliance.cli.output import ConfigOption, JsonOption, complain, console, moment, print_json, reading, writing
from appliance.errors import Missing, SettingsError

app = typer.Typer(no_args_is_help=True, help="The record of what happened, sealed in a hash chain.")
MOST = 20  # flaws that are printed


@app.command()
def verify(
    head: Annotated[str, typer.Option(help="A head that you noted earlier; the chain must hold it.")] = "",
    file: Annotated[Path | None, typer.Option(help="Look at an export, not at the catalogue.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Look at every link of the chain; exit code 1 where a row was changed, removed or put between."""
    if head and not re.fullmatch(r"[0-9a-f]{64}", head):
        raise SettingsError(f"--head {head!r} is not 64 hexadecimal digits; `curie audit verify` prints one")
    told = of_file(file, head) if file else of_catalogue(config, head)
    if json:
        print_json(told)
    else:
        for flaw in told["flaws"][:MOST]:
            complain(f"link {flaw['number']}, event {flaw['seq']}: {flaw['text']}")
        word = (
            "intact" if told["intact"] else f"broken in {len(told['flaws'])} places; restore from a backup and compare"
        )
        console.print(f"{told['links']} links, {told['unsealed']} events not sealed yet: {word}", markup=False)
        console.print(f"head {told['head']} (note it where nobody here can change it)", markup=False)
    raise typer.Exit(0 if told["intact"] else 1)


def of_catalogue(config: Path | None, head: str) -> dict[str, Any]:
    """Return what a look at the catalogue's chain found."""
    with reading(config) as (_, connection):
        found = audit.verify(connection, head)
    flaws = [{"number": one.number, "seq": one.seq, "text": one.text} for one in found.flaws]
    return {
        "links": found.links, "unsealed": found.unsealed, "head": found.head, "intact": not flaws, "flaws": flaws,
    }  # fmt: skip


def of_file(file: Path, head: str) -> dict[str, Any]:
    """Return what a look at an export found: each of its links must follow the one before."""
    before, flaws, last, seen = b"", [], 0, set()
    try:
        lines = [encoding.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
        for one in lines:
            number, digest = int(one.pop("number")), bytes.fromhex(one.pop("digest"))
            before = BEGINNING if number == 1 else before
            if last and number != last + 1:
                flaws.append({"number": number, "seq": one["seq"], "text": f"links after {last} are not in the file"})
            elif before and link(before, one) != digest:
                flaws.append({"number": number, "seq": one["seq"], "text": "it is not what was sealed"})
            before, last = digest, number
            seen.add(digest.hex())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Missing(f"{file} is not an export of `curie audit export` ({type(error).__name__})") from None
    if head and head not in seen:
        flaws.append({"number": last, "seq": 0, "text": f"the head that was noted, {head[:16]}…, is not in it"})
    return {"links": len(lines), "unsealed": 0, "head": before.hex(), "intact": not flaws, "flaws": flaws}


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="File to write: a JSON object a line, oldest first.")],
    since: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="DATE", help="Only what was recorded from then on.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write the chain with its events; the export is itself recorded. No patient's name or number is in it."""
    count = 0
    if to.exists():
        raise SettingsError(f"{to} is there already; name another file, an export is never written over")
    with reading(config) as (_, connection), open(to, "x", encoding="utf-8") as out:
        for one in audit.exported(connection, since.astimezone() if since else None):
            out.write(encoding.dumps(one) + "\n")
            count += 1
    with writing(config) as connection:
        events.record(connection, "audit_exported", who=getpass.getuser(), count=count)
    if json:
        print_json({"path": str(to.absolute()), "events": count})
        return
    console.print(f"wrote {count} events to {to}; `curie audit verify --file {to}` looks at them", markup=False)

"""What a command prints: one JSON document, or text for a person. Errors are one line on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from appliance.settings import Settings, load

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file; else CURIE_CONFIG, else ./curie.toml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def moment(text: str) -> datetime:
    """Return a date, with a time or without. Raises BadParameter."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; write 2026-11-23.") from None


def complain(text: str) -> None:
    """Print one line on stderr, with nothing from outside left to act on the terminal."""
    line = "".join(c if c.isprintable() else " " for c in text)
    errors.print(f"curie: {line}", markup=False)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under column heads; says so when there are none."""
    if not rows:
        console.print("none")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(table, markup=False)


@contextmanager
def reading(config: Path | None) -> Iterator[tuple[Settings, Connection]]:
    """Open settings and a read view of the catalogue."""
    from appliance.catalogue import open_catalogue

    settings = load(config)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        with catalogue.read() as connection:
            yield settings, connection
    finally:
        catalogue.close()


@contextmanager
def writing(config: Path | None) -> Iterator[Connection]:
    """Open one write transaction of the catalogue."""
    from appliance.catalogue import open_catalogue

    settings = load(config)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        with catalogue.write() as connection:
            yield connection
    finally:
        catalogue.close()

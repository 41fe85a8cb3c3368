"""docs/models.md says what the code does: operations, architectures, transforms, tolerances, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from appliance.cli import app
from models.bundle import postprocessing, preprocessing
from models.bundle.declaring import TARGETS
from models.declaration import Parity
from models.engines import RUNGS
from models.networks import ARCHITECTURES
from models.operations_table import table

DOCUMENT = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def test_the_table_of_operations_is_that_of_the_code() -> None:
    assert table() in DOCUMENT, "run: python -m models.operations_table, and put what it prints into docs/models.md"


@pytest.mark.parametrize(
    "names", [ARCHITECTURES, TARGETS, preprocessing.STEPS, postprocessing.STEPS, RUNGS], ids=lambda one: next(iter(one))
)
def test_every_name_that_is_allowed_is_named(names: dict[str, object]) -> None:
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", DOCUMENT)] == []


def test_the_tolerances_are_those_of_the_code() -> None:
    kinds = ("f32", "f16", "bf16")
    for field in ("max_abs_of_range", "min_dice", "max_flips", "max_probability"):
        told = [getattr(Parity().of(kind), field) for kind in kinds]
        rows = [
            [cell.strip() for cell in line.split("|")[2:-1]] for line in DOCUMENT.splitlines() if line.count("|") == 5
        ]
        numbers = [[float(cell) for cell in row] for row in rows if all(re.fullmatch(r"\d[\d.e-]*", c) for c in row)]
        assert told in numbers, field


def test_every_command_of_models_is_there_and_every_one_named_exists() -> None:
    commands = set(typer.main.get_command(app).commands["models"].commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"curie models ([a-z-]+)", DOCUMENT))
    assert named <= commands
    assert commands - named <= {"list", "benchmark"}  # of the host, not of a package's life

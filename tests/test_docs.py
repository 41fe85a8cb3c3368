"""Each command in the documents parses, each target exists, and a test runs it or its mark says why none does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.exceptions import TyperException

from appliance.cli import app
from tests.commands_in_docs import DOCUMENTS, ROOT, Command, in_blocks, in_text, run_by_tests

BLOCKS = [command for document in DOCUMENTS for command in in_blocks(document)]
TEXT = [command for document in DOCUMENTS for command in in_text(document)]
CURIE: Any = typer.main.get_command(app)
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def named(command: Command) -> str:
    return f"{command.place}: {' '.join(command.words)}"


def chosen(command: Command) -> tuple[tuple[str, ...], Any]:
    """Return the words that choose what is run, and that. Fails where there is no such command."""
    found: Any = CURIE
    path: list[str] = []
    for word in command.words[1:]:
        if not hasattr(found, "commands"):
            break
        path.append(word)
        assert word in found.commands, f"{named(command)}: there is no `curie {' '.join(path)}`"
        found = found.commands[word]
    return tuple(path), found


def parse(command: Command) -> None:
    """Let the command line read its words, and run nothing. Text may leave out what a command needs."""
    path, found = chosen(command)
    if hasattr(found, "commands"):
        return
    try:
        found.make_context(" ".join(path), list(command.words[1 + len(path) :]))
    except TyperException as error:
        if command.in_block or type(error).__name__ != "MissingParameter":
            pytest.fail(f"{named(command)}: {error}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_command_parses(document: Path) -> None:
    for command in (*in_blocks(document), *in_text(document)):
        if command.program == "curie":
            parse(command)


def test_each_make_target_exists() -> None:
    made = [one.words[1:] for one in BLOCKS + TEXT if one.program == "make"]
    asked = {word for words in made for word in words if re.fullmatch("[a-z-]+", word)}
    assert {"demo", "test", "check-deploy"} <= asked
    assert asked <= TARGETS
    ran = subprocess.run(["make", "-n", *asked], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_each_command_is_run_by_a_test_or_says_why_not() -> None:
    run = run_by_tests()
    commands = [one for one in BLOCKS + TEXT if one.program == "curie" and not one.reason]
    left = {path: one.place for one in commands if (path := chosen(one)[0]) and path not in run}
    assert left == {}


def test_each_line_of_other_programs_is_marked() -> None:
    assert [named(one) for one in BLOCKS if one.program not in ("curie", "make") and not (one.test or one.reason)] == []


def test_each_mark_names_a_test() -> None:
    marked = {one.test for one in BLOCKS if one.test}
    assert marked >= {"tests/deploy/test_bundle.py"}
    assert [test for test in marked if not (ROOT / test).is_file()] == []


def test_each_module_that_is_run_exists() -> None:
    modules = [one.words[one.words.index("-m") + 1] for one in BLOCKS if "python" in one.program and "-m" in one.words]
    assert "deploy.viewer.demo" in modules
    ours = {one.replace(".", "/") for one in modules if one.split(".")[0] not in ("pytest", "pip")}
    assert [one for one in ours if not (ROOT / f"{one}.py").is_file() and not (ROOT / one).is_dir()] == []

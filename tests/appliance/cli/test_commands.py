"""Every command has help, is documented, prints JSON where it prints a record, and fails in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from appliance.cli import app
from tests.appliance.cli.in_process import curie

ROOT = Path(__file__).parents[3]


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    found = group or typer.main.get_command(app)
    for name, command in sorted(found.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


ALL = dict(commands())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    assert curie("init", str(folder)).returncode == 0
    return folder


@pytest.mark.parametrize("name", ALL)
def test_each_command_has_help_and_is_documented(name: str) -> None:
    assert ALL[name].help
    documented = (ROOT / "docs" / "operating.md").read_text()
    assert f"curie {name}" in documented, f"docs/operating.md does not name `curie {name}`"


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("init", "up", "run", "demo")])
def test_each_record_can_be_had_as_json(name: str) -> None:
    assert "--json" in {option for p in ALL[name].params for option in p.opts}
    assert "--config" in {option for p in ALL[name].params for option in p.opts}


@pytest.mark.parametrize(
    "words", [("studies", "list"), ("jobs", "list"), ("models", "list"), ("destinations", "list"), ("routes", "list")]
)
def test_lists_are_json(home: Path, words: tuple[str, ...]) -> None:
    ran = curie(*words, "--json", cwd=home)
    assert ran.returncode == 0, ran.stderr
    assert isinstance(json.loads(ran.stdout), list)


def test_status_says_not_ready_and_why(home: Path) -> None:
    ran = curie("status", "--json", cwd=home)
    told = json.loads(ran.stdout)
    assert ran.returncode == 1
    assert told["ready"] is False
    assert set(told) >= {"ready", "version", "processes", "studies", "jobs", "outbox", "models"}
    assert told["alarms"][0]["name"] == "process receiver"
    assert set(told["alarms"][0]) == {"name", "said", "remedy"}
    assert set(told["jobs"]) == {
        "queued", "running", "delivering", "completed", "unsuitable", "failed", "cancelled", "superseded"
    }  # fmt: skip
    assert set(told["outbox"]) == {"waiting", "delivered", "committed", "rejected", "withdrawn"}


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("explain", "1.2.3"), 3, "studies list"),
        (("jobs", "show", "nope"), 3, "jobs list"),
        (("jobs", "list", "--state", "lost"), 2, "queued"),
        (("routes", "test", "/no/such/folder"), 3, "nothing at"),
        (("destinations", "test", "nope"), 2, "'nope'"),
        (("models", "show", "nope"), 3, "models list"),
        (("init", "."), 2, "there already"),
        (("status", "--config", "/no/such/file"), 3, "curie init"),
    ],
)
def test_bad_input_gets_one_line_and_the_next_step(home: Path, words: tuple[str, ...], code: int, part: str) -> None:
    ran = curie(*words, cwd=home)
    assert ran.returncode == code, ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert part in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_match_on_no_attribute_refuses_to_start(tmp_path: Path) -> None:
    (tmp_path / "curie.toml").write_text(
        '[[routes]]\nname = "r"\npackage = "brain-structures"\nmatch = { Modalty = "MR" }\n'
    )
    ran = curie("doctor", cwd=tmp_path)
    assert ran.returncode == 2
    assert "Modalty" in ran.stderr


def test_unknown_words_are_wrong_usage(home: Path) -> None:
    for words in (("studies", "eat"), ("run", "nonsense"), ("explain",), ("eat",), ("studies", "list", "--limit", "x")):
        ran = curie(*words, cwd=home)
        assert ran.returncode == 2, words
        assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
        assert "curie --help" in ran.stderr


def test_a_folder_without_dicom_is_said(home: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no image")
    ran = curie("routes", "test", str(tmp_path), cwd=home)
    assert ran.returncode == 3
    assert "no DICOM image among 1 files" in ran.stderr

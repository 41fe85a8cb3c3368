"""A catalogue that a newer curie made is refused in one line; `curie downgrade` is the way that the line names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from appliance.catalogue import Catalogue, open_catalogue, users
from appliance.catalogue.connection import HEAD, now
from appliance.catalogue.processes import beat
from appliance.process import running
from appliance.settings import load
from tests.appliance.catalogue.rows import queued_job
from tests.appliance.cli import test_commands
from tests.appliance.cli.in_process import curie


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "curie.toml").write_text('[appliance]\ndata_dir = "data"\n')
    return tmp_path


@pytest.fixture
def catalogue(home: Path) -> Iterator[Catalogue]:
    """The catalogue of `home`, with a job and an account."""
    opened = open_catalogue(f"sqlite:///{home}/data/curie.db", home / "data")
    queued_job(opened)
    with opened.write() as connection:
        users.add(connection, "marie", "viewer", "hash", now())
    yield opened
    opened.close()


def test_up_refuses_a_newer_schema_in_one_line_with_the_remedy(home: Path, catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    ran = test_commands.curie("up", cwd=home)  # it takes over signals and the log: a process of its own
    assert ran.returncode == 2
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert f"has schema 9999, this version of curie knows {HEAD}: install the newer version" in line
    assert f"`curie downgrade {HEAD}`" in line
    assert catalogue.version() == "9999"


def test_without_yes_it_says_what_would_be_lost(home: Path, catalogue: Catalogue) -> None:
    ran = curie("downgrade", "0008", "--json", cwd=home)
    assert json.loads(ran.stdout) == {"schema": "0008", "done": False, "lost": {"account": 1}}
    assert catalogue.version() == HEAD


def test_it_goes_back(home: Path, catalogue: Catalogue) -> None:
    ran = curie("downgrade", "0008", "--yes", cwd=home)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "rows that schema 0008 cannot hold: 1 of account; now install the version that knows it\n"
    assert catalogue.version() == "0008"
    with catalogue.read() as connection:
        kind, detail = connection.execute(text("SELECT kind, detail FROM event ORDER BY seq DESC")).first() or ("", "")
    assert kind == "schema_downgraded"
    assert json.loads(detail).items() >= {"schema": "0008", "lost": {"account": 1}}.items()


@pytest.mark.parametrize(
    "words",
    ["status", "jobs list", "studies list", "explain 1", "audit verify", "backup .", "models list", "downgrade 0007"],
)
def test_who_only_looks_leaves_an_older_schema_alone(home: Path, catalogue: Catalogue, words: str) -> None:
    catalogue.move("0008")
    ran = curie(*words.split(), cwd=home)
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert f"schema 0008, this version of curie knows {HEAD}: `curie up` brings it up to date" in line
    assert catalogue.version() == "0008"
    assert not list(home.glob("*.tar"))


def test_the_doctor_says_which_schema_it_found(home: Path, catalogue: Catalogue) -> None:
    catalogue.move("0008")
    ran = curie("doctor", "--json", cwd=home)
    (told,) = [one for one in json.loads(ran.stdout) if one["name"] == "catalogue"]
    assert not told["ok"]
    assert "schema 0008" in told["text"]
    assert catalogue.version() == "0008"


def test_a_process_brings_it_up_to_date_again(
    home: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.process.signal.signal", lambda *_: None)
    monkeypatch.setattr("appliance.process.start_logging", lambda _: None)
    catalogue.move("0008")
    with running("delivery", load(home / "curie.toml")):
        assert catalogue.version() == HEAD
    listed = json.loads(curie("jobs", "list", "--json", cwd=home).stdout)
    assert [one["state"] for one in listed] == ["queued"]


@pytest.mark.parametrize("schema", ["0042", "", "head", "base", "-1", "0008:0009"])
def test_an_unknown_schema_is_refused(home: Path, catalogue: Catalogue, schema: str) -> None:
    ran = curie("downgrade", "--yes", "--", schema, cwd=home)
    assert ran.returncode == 2, ran.stdout
    assert f"there is no schema {schema!r}; this version of curie knows 0001 to {HEAD}" in ran.stderr
    assert catalogue.version() == HEAD


def test_not_while_a_process_runs_on_it(home: Path, catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        beat(connection, "dispatch", now())
    ran = curie("downgrade", "0008", "--yes", cwd=home)
    assert ran.returncode == 3
    assert "dispatch still run on this catalogue; stop them first" in ran.stderr
    assert catalogue.version() == HEAD

"""`curie users`: accounts are made, changed and removed, and who did it stands on record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance.catalogue import flow, open_catalogue, users
from appliance.cli import app
from appliance.errors import CurieError, Missing, SettingsError
from appliance.passwords import is_right

PASSWORD = "correct horse battery"


def curie(home: Path, *words: str, given: str = PASSWORD + "\n") -> str:
    """Run a command in this process; returns what it prints."""
    ran = CliRunner().invoke(app, [*words, "--config", str(home / "curie.toml")], input=given, standalone_mode=False)
    if isinstance(ran.exception, CurieError):
        raise ran.exception
    assert ran.exit_code == 0, ran.output
    return ran.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "curie.toml").write_text('[appliance]\ndata_dir = "data"\n')
    return tmp_path


def add(home: Path, name: str = "anna", *more: str) -> str:
    return curie(home, "users", "add", name, "--password-file", "-", *more)


def held(home: Path, name: str = "anna") -> str | None:
    catalogue = open_catalogue(f"sqlite:///{home}/data/curie.db", home / "data")
    try:
        with catalogue.read() as connection:
            return users.password_hash(connection, name)
    finally:
        catalogue.close()


def test_an_account_holds_a_hash_and_never_the_password(home: Path) -> None:
    told = json.loads(add(home, "anna", "--role", "operator", "--json"))
    assert told == {"name": "anna", "role": "operator"}
    hashed = held(home)
    assert hashed is not None
    assert hashed.startswith("$argon2id$")
    assert is_right(hashed, PASSWORD)
    assert not is_right(hashed, PASSWORD + "x")
    assert not is_right(None, PASSWORD)
    assert PASSWORD.encode() not in (home / "data" / "curie.db").read_bytes()


def test_without_a_role_an_account_may_only_look(home: Path) -> None:
    add(home)
    (told,) = json.loads(curie(home, "users", "list", "--json"))
    assert (told["name"], told["role"]) == ("anna", "viewer")


def test_roles_and_passwords_change_and_accounts_go(home: Path) -> None:
    add(home)
    before = held(home)
    curie(home, "users", "role", "anna", "administrator")
    curie(home, "users", "password", "anna", "--password-file", "-", given="another good one\n")
    after = held(home)
    assert after != before
    assert is_right(after, "another good one")
    assert "administrator" in curie(home, "users", "list")
    curie(home, "users", "remove", "anna")
    assert held(home) is None
    catalogue = open_catalogue(f"sqlite:///{home}/data/curie.db", home / "data")
    with catalogue.read() as connection:
        kinds = ["account_added", "role_changed", "password_changed", "account_removed"]
        found = flow.happened(connection, kinds)
    catalogue.close()
    assert [one["kind"] for one in reversed(found)] == kinds
    assert all("(command line)" in one["detail"]["who"] for one in found)
    assert PASSWORD not in str(found)


@pytest.mark.parametrize(
    ("words", "error", "sentence"),
    [
        (("add", "anna", "--password-file", "-"), SettingsError, "there is an account anna already"),
        (("add", "Anna Müller", "--password-file", "-"), SettingsError, "cannot be an account"),
        (("remove", "bert"), Missing, "there is no account bert"),
        (("role", "bert", "viewer"), Missing, "`curie users list` shows them"),
        (("add", "bert", "--password-file", "/no/such"), Missing, "cannot be read"),
        (("add", "bert"), Missing, "give --password-file FILE, or - for stdin"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    home: Path, words: tuple[str, ...], error: type[CurieError], sentence: str
) -> None:
    add(home)
    with pytest.raises(error, match=sentence):
        curie(home, "users", *words)


@pytest.mark.parametrize("password", ["", "short", "x" * 257])
def test_a_password_that_is_easily_guessed_is_refused(home: Path, password: str) -> None:
    with pytest.raises(SettingsError, match="12 to 256 characters"):
        curie(home, "users", "add", "anna", "--password-file", "-", given=password + "\n")
    assert held(home) is None

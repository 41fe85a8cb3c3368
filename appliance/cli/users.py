"""`curie users …`: who may open the console, and what each may do there."""

from __future__ import annotations

import getpass
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from appliance.catalogue import events
from appliance.catalogue import users as queries
from appliance.catalogue.connection import now
from appliance.catalogue.overview import iso
from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table, reading, writing
from appliance.errors import Missing, SettingsError
from appliance.passwords import checked_name, hash_of

app = typer.Typer(no_args_is_help=True, help="Who may open the console.")
NameArgument = Annotated[str, typer.Argument(help="Small letters, digits, points, hyphens.")]
PasswordOption = Annotated[
    str, typer.Option("--password-file", help='File whose first line is the password; "-": stdin. Else it is asked.')
]


class Role(StrEnum):
    """What a person may do in the console."""

    viewer = "viewer"
    operator = "operator"
    administrator = "administrator"


RoleOption = Annotated[
    Role, typer.Option(help="viewer: sees; operator: also identifiers, retries; administrator: also models.")
]


@app.command("add")
def add_user(
    name: NameArgument,
    role: RoleOption = Role.viewer,
    password_file: PasswordOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make an account for the console."""
    hashed = hash_of(_password(checked_name(name), password_file))
    with writing(config) as connection:
        queries.add(connection, name, role.value, hashed, now())
        events.record(connection, "account_added", who=_who(), name=name, role=role.value)
    _tell({"name": name, "role": role.value}, f"{name} may open the console as {role.value}", json=json)


@app.command("list")
def list_users(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the accounts."""
    with reading(config) as (_, connection):
        found = queries.accounts(connection)
    told = [
        {"name": one.name, "role": one.role, "made_at": iso(one.made_at), "changed_at": iso(one.changed_at)}
        for one in found
    ]
    if json:
        print_json(told)
    else:
        print_table(("name", "role", "made", "changed"), [tuple(one.values()) for one in told])


@app.command("role")
def change_role(
    name: NameArgument,
    role: Annotated[Role, typer.Argument(help="viewer, operator or administrator.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give an account another role; its sessions end."""
    with writing(config) as connection:
        queries.change(connection, name, now(), role=role.value)
        events.record(connection, "role_changed", who=_who(), name=name, role=role.value)
    _tell({"name": name, "role": role.value}, f"{name} is {role.value}", json=json)


@app.command("password")
def change_password(
    name: NameArgument, password_file: PasswordOption = "", json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Give an account another password; its sessions end."""
    hashed = hash_of(_password(name, password_file))
    with writing(config) as connection:
        queries.change(connection, name, now(), password_hash=hashed)
        events.record(connection, "password_changed", who=_who(), name=name)
    _tell({"name": name, "changed": True}, f"{name} has another password", json=json)


@app.command("remove")
def remove_user(name: NameArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Remove an account; its sessions end."""
    with writing(config) as connection:
        queries.remove(connection, name)
        events.record(connection, "account_removed", who=_who(), name=name)
    _tell({"name": name, "removed": True}, f"{name} is removed", json=json)


def _tell(record: dict[str, object], text: str, *, json: bool) -> None:
    print_json(record) if json else console.print(text, markup=False)


def _who() -> str:
    """Return who runs this command, as the operating system knows them."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (OSError, KeyError):  # a number without a name
        return "command line"


def _password(name: str, file: str) -> str:
    """Return the password, from a file, from stdin, or asked for twice on the terminal. Raises Missing."""
    if file:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise Missing(f"--password-file {file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise Missing(f"--password-file {file} cannot be read: it is no UTF-8 text") from None
        return text.partition("\n")[0].removesuffix("\r")
    if not sys.stdin.isatty():
        raise Missing("there is no terminal to ask for the password on: give --password-file FILE, or - for stdin")
    first = getpass.getpass(f"Password of {name}: ")
    if getpass.getpass("Once more: ") != first:
        raise SettingsError("the two passwords differ; nothing was changed")
    return first

"""`curie models shadow | promote | rollback | retire | compare`: which version of a package speaks, and who said so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.catalogue import packages
from appliance.catalogue.adoption import withdraw_version
from appliance.catalogue.connection import now
from appliance.catalogue.promotions import decide
from appliance.cli.models import NameArgument, registry
from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table
from appliance.errors import SettingsError
from appliance.package_life import Change, VersionRow, require_change, require_gate, signed_by_person

if TYPE_CHECKING:
    from models.registry import Registry

PersonOption = Annotated[str, typer.Option("--by", help="Your name; it goes on record.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, in a sentence; it goes on record.")]


def shadow(
    name: NameArgument,
    off: Annotated[bool, typer.Option("--off", help="Take it out of shadow again.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let a candidate run on live studies beside the active version; its results never leave the appliance."""
    with registry(config) as opened:
        row, state = put_in_shadow(opened, name, off=off)
    if json:
        print_json({"package": row.package, "version": row.version, "state": state})
    else:
        console.print(f"{row.name}: {state}", markup=False)


def put_in_shadow(opened: Registry, name: str, *, off: bool = False) -> tuple[VersionRow, str]:
    """Put a version in shadow, or take it out; returns it as it was, and its new state."""
    state = "candidate" if off else "shadow"
    row = opened.row(name)
    if off and row.state != "shadow":
        raise SettingsError(f"{row.name} is {row.state}, not in shadow")
    with opened.catalogue.write() as connection:
        packages.set_state(connection, row, state, now())
        if off:
            withdraw_version(connection, row, now())
    return row, state


def promote(
    name: NameArgument, by: PersonOption, reason: ReasonOption, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Make a version the active one from the next study on. With two_person_promotion, a second person repeats this."""
    _change("promote", name, by, reason, json=json, config=config)


def rollback(
    package: Annotated[str, typer.Argument(help='"brain-structures" (the version before), or one: "…@1.0.0".')],
    by: PersonOption,
    reason: ReasonOption,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make the version active again that was so before; studies that still wait are read by it."""
    _change("rollback", package, by, reason, json=json, config=config)


def retire(
    name: NameArgument, by: PersonOption, reason: ReasonOption, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Let a version run no more. Without an active version its routes end with a sentence that says so."""
    with registry(config) as opened:
        row, change = retire_version(opened, name, by, reason)
    _tell(row, "retired", change, json=json)


def retire_version(opened: Registry, name: str, by: str, reason: str) -> tuple[VersionRow, Change]:
    """Let a version run no more; returns it as it was, and what goes on record."""
    person, why = signed_by_person(by, reason)
    row, at = opened.row(name), now()
    change = Change(row.package, "retire", row.version, "", person, why, at, "", at)
    with opened.catalogue.write() as connection:
        packages.set_state(connection, row, "retired", at, person=person, reason=why)
        withdraw_version(connection, row, at)
        if row.state == "active":
            packages.record_change(connection, change)
    return row, change


def _change(kind: str, name: str, by: str, reason: str, *, json: bool, config: Any) -> None:
    with registry(config) as opened:
        row, change, done = make_active(opened, kind, name, by, reason)
    _tell(row, "active" if done else row.state, change, json=json)


def make_active(opened: Registry, kind: str, name: str, by: str, reason: str) -> tuple[VersionRow, Change, bool]:
    """Promote a version or go back to one; returns it as it was, what goes on record, and whether it is done."""
    person, why = signed_by_person(by, reason)
    row = _target(kind, name, opened)
    two = opened.settings.models.two_person_promotion
    with opened.catalogue.write() as connection:
        if packages.version(connection, row.package, row.version) != row:
            raise SettingsError(f"{row.name} was changed by somebody else meanwhile; look again")
        change, done = decide(connection, kind, row, person, why, now(), two_persons=two)
    return row, change, done


def _target(kind: str, name: str, opened: Registry) -> VersionRow:
    """Return the version to make active: it may be so, passed the gate, and its files are whole."""
    package, _, number = name.partition("@")
    with opened.catalogue.read() as connection:
        row: VersionRow
        if kind == "promote":
            row = opened.row(name)
        elif number:
            row = packages.named_before(connection, package, number)
        else:
            row = packages.before_active(connection, package)
        require_change(row, "active")
        require_gate(row, passed=packages.passed(connection, row))
    opened.load(row)
    return row


def _tell(row: VersionRow, state: str, change: Change, *, json: bool) -> None:
    told = {
        "package": row.package,
        "version": row.version,
        "state": state,
        "before": change.before,
        "by": change.person,
        "second_person": change.second_person,
        "reason": change.reason,
        "waiting_for_second_person": change.done_at is None,
    }
    if json:
        print_json(told)
        return
    console.print(f"{row.name}: {state}" + (f" (before: {change.before})" if change.before else ""), markup=False)
    if change.done_at is None:
        console.print("a second person has to repeat this command with another name")


def compare(
    first: NameArgument,
    second: Annotated[str, typer.Argument(help="The other version, e.g. brain-structures@1.1.0.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show how two versions differ on the studies that both have read (in shadow, or replayed), by scanner."""
    from appliance.catalogue import comparisons

    with registry(config) as opened:
        one, other = opened.row(first), opened.row(second)
        if one.package != other.package:
            raise SettingsError(f"{one.name} and {other.name} are different packages")
        with opened.catalogue.read() as connection:
            found = comparisons.between(connection, one.package, one.version, other.version)
    told = compared(one, other, found)
    if json:
        print_json(told)
    else:
        _print_compared(told)


def compared(one: VersionRow, other: VersionRow, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the studies that two versions have read, all together and by scanner."""
    from models.comparison import summary

    scanners = sorted({row["scanner"] for row in found})
    by_scanner = {name: summary([row for row in found if row["scanner"] == name]) for name in scanners}
    return {"first": one.name, "second": other.name, "all": summary(found), "by_scanner": by_scanner}


def _print_compared(told: dict[str, Any]) -> None:
    console.print(f"{told['first']} and {told['second']}: {told['all']['studies']} studies read by both", markup=False)
    for place, figures in (("all scanners", told["all"]), *told["by_scanner"].items()):
        console.print(
            f"\n{place}: {figures['studies']} studies, {figures['flips']} flips, kappa {_number(figures['kappa'])}"
        )
        rows = [
            (name, _number(one["dice"]), _number(one["lowest_dice"]), one["flips"], _differences(one["differences"]))
            for name, one in figures["findings"].items()
        ]
        print_table(("finding", "Dice", "lowest", "flips", "difference, mean (largest)"), rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _differences(found: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{what} {d['mean']:+.3g} ({d['largest']:+.3g}) {d['unit']}" for what, d in found.items())


def add_to(app: typer.Typer) -> None:
    """Put these commands beside the others of `curie models`."""
    for command in (shadow, promote, rollback, retire, compare):
        app.command()(command)

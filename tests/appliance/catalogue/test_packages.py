"""What is kept of package versions: who changed what, what a host measured, and which version was found good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from appliance.catalogue import Catalogue, packages
from appliance.catalogue.connection import now
from appliance.catalogue.tables import event
from appliance.errors import Missing, SettingsError
from appliance.package_life import Change, VersionRow

REPORT: dict[str, Any] = {
    "host": "h", "device": "cpu", "package_digest": "d1", "engine": "openvino", "precision": "f32", "skipped": [],
    "parity": [], "memory_mb": None,
}  # fmt: skip


def put(catalogue: Catalogue, number: str, state: str) -> VersionRow:
    row = VersionRow("brain", f"{number}.0.0", f"d{number}", "", state, now(), now())
    with catalogue.write() as connection:
        packages.add(connection, row)
    return row


def asked(row: VersionRow, person: str = "A", second: str = "", kind: str = "promote", *, done: bool = False) -> Change:
    return Change(row.package, kind, "", row.version, person, "why", now(), second, now() if done else None)


def happened(catalogue: Catalogue) -> list[tuple[str, dict[str, Any]]]:
    with catalogue.read() as connection:
        rows = connection.execute(select(event.c.kind, event.c.detail).order_by(event.c.seq))
        return [(row.kind, row.detail) for row in rows if row.kind != "package_installed"]


def test_both_persons_stand_in_the_event_and_so_does_what_was_asked_and_dropped(catalogue: Catalogue) -> None:
    first, second = put(catalogue, "1", "candidate"), put(catalogue, "2", "candidate")
    with catalogue.write() as connection:
        packages.record_change(connection, asked(first))
        other = asked(second, "B")
        packages.forget_waiting(connection, other)
        packages.record_change(connection, other)
        both = asked(second, "B", "C", done=True)
        packages.forget_waiting(connection, both)
        packages.make_active(connection, second, both, now())
        packages.record_change(connection, both)
    told = [(kind, detail["version"], detail["person"]) for kind, detail in happened(catalogue)]
    assert told == [
        ("package_change_asked", "1.0.0", "A"),
        ("package_change_dropped", "1.0.0", "A"),
        ("package_change_asked", "2.0.0", "B"),
        ("package_active", "2.0.0", "B"),
    ]
    assert happened(catalogue)[1][1]["dropped_by"] == "B"
    assert happened(catalogue)[-1][1]["second_person"] == "C"


def test_of_two_that_become_active_at_once_one_is_told_so_in_a_line(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(catalogue, "1", "active")
    row = put(catalogue, "2", "candidate")
    monkeypatch.setattr(packages, "active", lambda connection, package: None)  # as it was before the other's commit
    with pytest.raises(SettingsError, match="became active this moment"), catalogue.write() as connection:
        packages.make_active(connection, row, asked(row, done=True), now())


def test_a_version_is_found_good_by_an_engine_or_by_having_been_active(catalogue: Catalogue) -> None:
    first, second = put(catalogue, "1", "retired"), put(catalogue, "2", "retired")
    with catalogue.write() as connection:
        packages.record_change(connection, asked(second))
        assert not packages.passed(connection, first)
        assert not packages.passed(connection, second), "what was only asked for is no proof"
        packages.keep_engine_report(connection, REPORT, now())
        packages.record_change(connection, asked(second, done=True))
        assert packages.passed(connection, first)
        assert packages.passed(connection, second)


def test_only_what_was_active_can_be_named_for_a_rollback(catalogue: Catalogue) -> None:
    first, second = put(catalogue, "1", "retired"), put(catalogue, "2", "candidate")
    with catalogue.write() as connection:
        packages.record_change(connection, asked(first, done=True))
        assert packages.named_before(connection, "brain", "1.0.0") == first
        for number in (second.version, "3.0.0"):
            with pytest.raises(Missing, match="was never active here"):
                packages.named_before(connection, "brain", number)


def test_memory_that_was_measured_outlives_a_load_that_has_not_run(catalogue: Catalogue) -> None:
    put(catalogue, "1", "candidate")
    with catalogue.write() as connection:
        packages.keep_engine_report(connection, REPORT | {"memory_mb": 700.0}, now())
        packages.keep_engine_report(connection, REPORT | {"engine": "torch"}, now())
        packages.keep_engine_report(connection, REPORT | {"device": "cuda:0"}, now())
        told = {one["device"]: one for one in packages.engine_reports(connection, "d1")}
    assert (told["cpu"]["engine"], told["cpu"]["memory_mb"]) == ("torch", 700.0)
    assert told["cuda:0"]["memory_mb"] is None


def test_a_version_that_changed_meanwhile_is_not_changed_again(catalogue: Catalogue) -> None:
    row = put(catalogue, "1", "candidate")
    with catalogue.write() as connection, pytest.raises(SettingsError, match="somebody else"):
        packages.set_state(connection, replace(row, state="shadow"), "active", now())

"""Which version a rollback goes to: the promotes followed back, never one that a rollback left."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from appliance.errors import SettingsError
from appliance.package_life import Change, VersionRow, require_gate, version_before

AT = datetime(2026, 1, 1, tzinfo=UTC)


def history(*steps: str) -> list[Change]:
    """Return changes, newest first, from steps such as "promote 1>2"."""
    found = []
    for step in steps:
        kind, way = step.split()
        before, after = way.split(">")
        found.append(Change("p", kind, before, after, "A", "B", AT, "", None if kind == "asked" else AT))
    return found[::-1]


THREE = ("shipped >1", "promote 1>2", "promote 2>3")


@pytest.mark.parametrize(
    ("steps", "active", "expected"),
    [
        ((), None, None),
        (("shipped >1",), "1", None),
        (THREE, "3", "2"),
        ((*THREE, "rollback 3>2"), "2", "1"),
        ((*THREE, "rollback 3>2", "rollback 2>1"), "1", None),
        ((*THREE, "rollback 3>1"), "1", None),
        ((*THREE, "rollback 3>2", "promote 2>4"), "4", "2"),
        ((*THREE, "rollback 3>2", "promote 2>3"), "3", "2"),
        ((*THREE, "rollback 3>2", "promote 2>3", "promote 3>4"), "4", "3"),
        (("shipped >1", "promote 1>2", "promote 2>1", "promote 1>2", "rollback 2>1"), "1", None),
        (("shipped >1", "promote 1>2", "promote 2>1", "rollback 1>2"), "2", None),
        ((*THREE, "retire 3>"), None, "3"),
        ((*THREE, "rollback 3>2", "retire 2>"), None, "2"),
        ((*THREE, "retire 3>", "rollback >3"), "3", "2"),
        ((*THREE, "asked 3>9"), "3", "2"),
    ],
)
def test_a_rollback_follows_the_promotes_back(steps: tuple[str, ...], active: str | None, expected: str | None) -> None:
    assert version_before(history(*steps), active) == expected


def test_no_state_stands_for_the_gate() -> None:
    row = VersionRow("p", "2.0.0", "d", "", "retired", AT, AT)
    require_gate(row, passed=True)
    with pytest.raises(SettingsError, match=r"p@2\.0\.0 never passed the gate here; `curie models build"):
        require_gate(row, passed=False)

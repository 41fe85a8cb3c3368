"""From each schema version the catalogue goes forward, back and forward again, and keeps every row that both know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from appliance.catalogue import Catalogue
from appliance.catalogue.connection import HEAD
from tests.appliance.catalogue.schemas import (
    VERSIONS,
    check,
    contents,
    fill,
    goes_back_step_by_step,
    goes_forward_back_and_forward,
    shapes_of,
)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Catalogue]:
    """A database without tables."""
    opened = Catalogue(f"sqlite:///{tmp_path}/old.db")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The schema of each version."""
    fresh = Catalogue(f"sqlite:///{tmp_path_factory.mktemp('fresh')}/fresh.db")
    yield shapes_of(fresh)
    fresh.close()


def test_the_head_is_the_last_migration() -> None:
    assert [f"{number:04}" for number in range(1, len(VERSIONS) + 1)] == VERSIONS
    assert VERSIONS[-1] == HEAD


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_goes_forward_back_and_forward_again(old: Catalogue, shapes: dict[str, Any], version: str) -> None:
    goes_forward_back_and_forward(old, shapes, version)


def test_going_back_from_full_tables_loses_only_what_the_older_one_does_not_know(
    old: Catalogue, shapes: dict[str, Any]
) -> None:
    goes_back_step_by_step(old, shapes)


def test_a_migration_that_fails_changes_nothing(old: Catalogue, shapes: dict[str, Any]) -> None:
    old.move("0003")
    fill(old)
    before = contents(old)
    with old.write() as connection:
        connection.execute(text("CREATE TABLE trial (foreign_one INTEGER)"))  # in the way of 0007
    with pytest.raises(OperationalError, match="trial"):
        old.upgrade()
    with old.write() as connection:
        connection.execute(text("DROP TABLE trial"))
    check(old, "0003", shapes, before)

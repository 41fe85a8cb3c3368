"""From each schema version the catalogue goes forward, back and forward again, and keeps every row that both know."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Column, Float, Integer, LargeBinary, MetaData, Table, inspect, text
from sqlalchemy.exc import OperationalError

from appliance.catalogue import Catalogue
from appliance.catalogue.connection import HEAD, MIGRATIONS
from appliance.catalogue.tables import metadata

VERSIONS = sorted(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())
ROWS = 3
Rows = dict[str, list[dict[str, Any]]]  # of each table


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Catalogue]:
    """A database without tables."""
    opened = Catalogue(f"sqlite:///{tmp_path}/old.db")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The schema of each version, as a fresh catalogue of it has it."""
    fresh = Catalogue(f"sqlite:///{tmp_path_factory.mktemp('fresh')}/fresh.db")
    found = {}
    for version in VERSIONS:
        fresh.move(version)
        found[version] = shape_of(fresh)
    with fresh.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    fresh.close()
    return found


def test_the_head_is_the_last_migration() -> None:
    assert [f"{number:04}" for number in range(1, len(VERSIONS) + 1)] == VERSIONS
    assert VERSIONS[-1] == HEAD


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_goes_forward_back_and_forward_again(old: Catalogue, shapes: dict[str, Any], version: str) -> None:
    old.move(version)
    fill(old)
    before = contents(old)
    assert before.keys() == shapes[version].keys()
    assert {len(rows) for rows in before.values()} == {ROWS}
    old.upgrade()
    check(old, HEAD, shapes, before)
    fill(old, only={*shapes[HEAD]} - {*before})  # what the older one did not know
    newest = contents(old)
    old.move(version)
    check(old, version, shapes, before)
    old.upgrade()
    check(old, HEAD, shapes, before)
    assert newest.keys() == contents(old).keys()


def test_going_back_from_full_tables_loses_only_what_the_older_one_does_not_know(
    old: Catalogue, shapes: dict[str, Any]
) -> None:
    old.upgrade()
    fill(old)
    for version in reversed(VERSIONS):
        before = narrowed(contents(old), shapes[version])
        old.move(version)
        check(old, version, shapes, before)
        assert {len(rows) for rows in contents(old).values()} == {ROWS}


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


def check(catalogue: Catalogue, version: str, shapes: dict[str, Any], rows: Rows) -> None:
    """Check version and schema, that these rows are there, and that none refers to one that is not."""
    assert catalogue.version() == version
    assert shape_of(catalogue) == shapes[version]
    found = contents(catalogue)
    assert {name: [{key: row[key] for key in rows[name][0]} for row in found[name]] for name in rows} == rows
    with catalogue.read() as connection:
        assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def fill(catalogue: Catalogue, only: Set[str] | None = None) -> None:
    """Put rows into every table, with a value of its own in every column."""
    found = MetaData()
    found.reflect(catalogue.engine)
    with catalogue.write() as connection:
        for table in found.sorted_tables:
            if table.name != "alembic_version" and (only is None or table.name in only):
                connection.execute(table.insert(), [row_of(table, number) for number in range(ROWS)])


def row_of(table: Table, number: int) -> dict[str, Any]:
    return {column.name: value_of(column, number) for column in table.columns}


def value_of(column: Column[Any], number: int) -> Any:
    for key in column.foreign_keys:
        return value_of(key.column, number)
    if isinstance(column.type, JSON):
        return {"of": column.name, "number": number}
    if isinstance(column.type, LargeBinary):
        return bytes([number]) * 32
    if isinstance(column.type, Float):
        return 1.75e9 + number + 0.25
    if isinstance(column.type, Integer):
        return number + 1
    return f"{column.name} ł {number}"


def contents(catalogue: Catalogue) -> Rows:
    """Return all rows of all tables."""
    with catalogue.read() as connection:
        return {
            name: [dict(row) for row in connection.execute(text(f"SELECT * FROM {name} ORDER BY rowid")).mappings()]
            for name in inspect(connection).get_table_names()
            if name != "alembic_version"
        }


def narrowed(rows: Rows, shape: dict[str, Any]) -> Rows:
    """Return of the rows what a schema knows."""
    return {
        name: [{key: value for key, value in row.items() if key in known["columns"]} for row in rows[name]]
        for name, known in shape.items()
    }


def shape_of(catalogue: Catalogue) -> dict[str, Any]:
    """Return columns, keys and indexes of each table."""
    with catalogue.read() as connection:
        found = inspect(connection)
        return {
            name: {
                "columns": {one["name"]: (str(one["type"]), one["nullable"], one["default"]) for one in columns},
                "key": found.get_pk_constraint(name)["constrained_columns"],
                "foreign": sorted(str(one["constrained_columns"]) for one in found.get_foreign_keys(name)),
                "unique": sorted(str(one["column_names"]) for one in found.get_unique_constraints(name)),
                "indexes": sorted((str(one["name"]), str(one["column_names"])) for one in found.get_indexes(name)),
            }
            for (_, name), columns in found.get_multi_columns().items()
            if name != "alembic_version"
        }

"""What tests of migrations share: rows for every table of a schema, and the ways forward and back, on any database."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Column, Float, Integer, LargeBinary, MetaData, Table, inspect, text

from appliance.catalogue import Catalogue
from appliance.catalogue.connection import HEAD, MIGRATIONS
from appliance.catalogue.tables import metadata

VERSIONS = sorted(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())
ROWS = 3
Rows = dict[str, list[dict[str, Any]]]  # of each table


def shapes_of(fresh: Catalogue) -> dict[str, Any]:
    """Return the schema of each version, as an empty catalogue gets it; the last is that of the code."""
    found = {}
    for version in VERSIONS:
        fresh.move(version)
        found[version] = shape_of(fresh)
    with fresh.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    return found


def goes_forward_back_and_forward(old: Catalogue, shapes: dict[str, Any], version: str) -> None:
    """Check that an empty catalogue, brought to a version and filled, keeps its rows on the way to HEAD and back."""
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


def goes_back_step_by_step(old: Catalogue, shapes: dict[str, Any]) -> None:
    """Check that an empty catalogue, filled at HEAD, loses on its way back only what the older ones do not know."""
    old.upgrade()
    fill(old)
    for version in reversed(VERSIONS):
        before = narrowed(contents(old), shapes[version])
        old.move(version)
        check(old, version, shapes, before)
        assert {len(rows) for rows in contents(old).values()} == {ROWS}


def check(catalogue: Catalogue, version: str, shapes: dict[str, Any], rows: Rows) -> None:
    """Check version and schema, that these rows are there, and that none refers to one that is not."""
    assert catalogue.version() == version
    assert shape_of(catalogue) == shapes[version]
    found = contents(catalogue)
    assert {name: [{key: row[key] for key in rows[name][0]} for row in found[name]] for name in rows} == rows
    if catalogue.engine.dialect.name == "sqlite":  # others do not let a row refer to nothing
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
    return f"{number} ł {column.name}"[: column.type.length]  # type: ignore[attr-defined]


def contents(catalogue: Catalogue) -> Rows:
    """Return all rows of all tables."""
    with catalogue.read() as connection:
        return {
            name: [dict(row) for row in connection.execute(text(f"SELECT * FROM {name} ORDER BY 1, 2")).mappings()]
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

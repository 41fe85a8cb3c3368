"""All rows at one moment, in a SQLite file, from any database and into any: what a backup holds of the catalogue."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Integer, func, insert, select, text

from appliance.catalogue.connection import Catalogue
from appliance.catalogue.tables import metadata
from appliance.errors import Missing

AT_ONCE = 1000


def save(catalogue: Catalogue, file: Path) -> None:
    """Write all rows as they are now into a new SQLite file, while others go on writing."""
    if catalogue.engine.dialect.name == "sqlite":
        with closing(catalogue.engine.raw_connection()) as connection:  # outside any transaction
            connection.cursor().execute("VACUUM INTO ?", (str(file),))
        return
    target = Catalogue(f"sqlite:///{file}")
    target.upgrade()
    try:
        snapshot = catalogue.engine.connect().execution_options(isolation_level="REPEATABLE READ")
        with snapshot as source, target.write() as connection:
            _copy(source, connection)
    finally:
        target.close()


def fill(catalogue: Catalogue, file: Path) -> None:
    """Put the rows of such a file into an empty catalogue. Raises Missing where it holds anything, SettingsError on a
    file of a newer schema."""
    source = Catalogue(f"sqlite:///{file}")
    try:
        source.upgrade()
        with source.read() as rows, catalogue.write() as connection:
            _refuse_filled(connection)
            _copy(rows, connection)
            if catalogue.engine.dialect.name == "postgresql":
                _advance_sequences(connection)
    finally:
        source.close()


def _refuse_filled(connection: Connection) -> None:
    for table in metadata.sorted_tables:
        if connection.execute(select(table).limit(1)).first() is not None:
            raise Missing(f"the catalogue holds rows of {table.name} already: name an empty database in catalogue.url")


def _copy(source: Connection, target: Connection) -> None:
    for table in metadata.sorted_tables:
        rows = source.execution_options(yield_per=AT_ONCE).execute(select(table)).mappings()
        for part in rows.partitions(AT_ONCE):
            target.execute(insert(table), [dict(row) for row in part])


def _advance_sequences(connection: Connection) -> None:
    """Let numbers that PostgreSQL gives go on after the greatest that was copied."""
    for table in metadata.sorted_tables:
        keys = list(table.primary_key.columns)
        if len(keys) == 1 and isinstance(keys[0].type, Integer) and keys[0].autoincrement is not False:
            greatest = connection.execute(select(func.max(keys[0]))).scalar() or 0
            named = {"table": table.name, "key": keys[0].name, "next": greatest + 1}
            connection.execute(text("SELECT setval(pg_get_serial_sequence(:table, :key), :next, false)"), named)

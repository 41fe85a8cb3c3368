"""Connections to the catalogue: SQLite (WAL, synchronous FULL) or PostgreSQL by URL. It must never retry silently.

Every process opens its own after it started. Writers queue instead of failing at commit: `write()` is BEGIN IMMEDIATE
on SQLite, and on PostgreSQL takes one lock of the whole catalogue, so that both promise the same.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, func, inspect, make_url, select, table, text

from appliance.errors import Missing, SettingsError

HEAD = "0009"  # the migration this version of the code needs
MIGRATIONS = Path(__file__).parent / "migrations"
DRIVERS = ("sqlite", "postgresql+psycopg")
ALLOWED = "sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE (/ and @ in a password as %2F and %40)"
WRITERS = 1914  # the advisory lock that a writing transaction holds
HELD_S = 10  # a writer that says nothing for so long has lost the network: its transaction is rolled back
UNANSWERED_S = 10  # after which a connection over which nothing comes any more is given up


class Catalogue:
    """One process's way into the database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self._writing = self.engine.execution_options(curie_write=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open one transaction that commits at the end of the block, or rolls back on any error."""
        with self._writing.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a consistent view."""
        with self.engine.connect() as connection:
            yield connection

    def version(self) -> str | None:
        """Return the schema version of the database, or None when it is empty."""
        try:
            with self.read() as connection:
                return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        except (exc.OperationalError, exc.ProgrammingError):
            return None

    def upgrade(self, *, older: bool = True) -> None:
        """Bring the schema to this version of the code. Raises SettingsError on a newer one, and unless `older` so."""
        found = self.version()
        if found == HEAD:
            return
        if found is not None and found > HEAD:
            raise SettingsError(
                f"the catalogue has schema {found}, this version of curie knows {HEAD}: install the newer version; "
                f"to stay with this one, first run `curie downgrade {HEAD}` with the newer"
            )
        if found is not None and not older:
            raise SettingsError(
                f"the catalogue has schema {found}, this version of curie knows {HEAD}: `curie up` brings it up to date"
            )
        self.move(HEAD)

    def move(self, version: str) -> None:
        """Bring the schema forward or back to one that this code knows; what only newer ones hold is lost."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["engine"] = self.engine
        step = command.downgrade if version < (self.version() or "") else command.upgrade
        step(config, version)

    def only_since(self, version: str) -> dict[str, int]:
        """Return how many rows stand in tables that an older schema does not know. Raises SettingsError on another."""
        if version not in {path.name[:4] for path in (MIGRATIONS / "versions").glob("0*.py")}:
            raise SettingsError(f"there is no schema {version!r}; this version of curie knows 0001 to {HEAD}")
        older = Catalogue("sqlite://")
        older.move(version)
        known = inspect(older.engine).get_table_names()
        older.close()
        with self.read() as connection:
            new = sorted(set(inspect(connection).get_table_names()) - set(known))
            counts = {name: connection.execute(select(func.count()).select_from(table(name))).scalar() for name in new}
        return {name: int(count) for name, count in counts.items() if count}

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _checked(url: str) -> URL:
    """Return what the setting names. Raises SettingsError, which shows how it begins: a password may follow."""
    begins = re.match(r"[A-Za-z0-9+.-]+(?=:)", url)
    refused = SettingsError(f"catalogue.url = '{begins[0] if begins else ''}:…' is not allowed: {ALLOWED}")
    try:
        checked = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise refused from None
    if checked.drivername not in DRIVERS or "@" in (checked.host or ""):
        raise refused
    return checked


def _engine(url: str) -> Engine:
    checked = _checked(url)
    if checked.get_backend_name() == "postgresql":
        try:
            engine = create_engine(checked, pool_pre_ping=True, connect_args=_patience())
        except ModuleNotFoundError:
            raise SettingsError("catalogue.url: PostgreSQL needs `pip install 'petite-curie[postgres]'`") from None
        event.listen(engine, "begin", _postgresql_begin)
        return engine
    engine = create_engine(checked, connect_args={"timeout": 20})
    event.listen(engine, "connect", _sqlite_pragmas)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _patience() -> dict[str, int]:
    """Return libpq's bounds: without them a query over a pulled cable waits for a quarter of an hour."""
    probes = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
    return {"connect_timeout": 5, "tcp_user_timeout": UNANSWERED_S * 1000, **probes}


def _postgresql_begin(connection: Connection) -> None:
    if connection.get_execution_options().get("curie_write"):
        held = f"set_config('idle_in_transaction_session_timeout', '{HELD_S}s', true)"
        connection.exec_driver_sql(f"SELECT {held}, pg_advisory_xact_lock({WRITERS})")


def _sqlite_pragmas(connection: Any, record: object) -> None:  # noqa: ARG001
    connection.isolation_level = None  # transactions are begun by _sqlite_begin
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=20000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _sqlite_begin(connection: Connection) -> None:
    writing = connection.get_execution_options().get("curie_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def open_catalogue(url: str, data_dir: Path, *, moving: bool = False) -> Catalogue:
    """Open the catalogue; an empty one is made. Raises SettingsError or Missing with the next step.

    Only who is `moving` brings an older schema up to date: processes, no command that looks.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
    catalogue = Catalogue(url)
    try:
        with open(data_dir / "catalogue.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            catalogue.upgrade(older=moving)
    except exc.OperationalError as error:
        where = catalogue.engine.url.render_as_string(hide_password=True)
        cause = str(error.orig).splitlines()[0]
        raise Missing(f"the catalogue {where} does not answer: {cause}. Check catalogue.url") from None
    return catalogue


def now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)

"""The catalogue opens, upgrades, refuses a newer schema, and says what is wrong in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from appliance.catalogue import Catalogue, open_catalogue
from appliance.catalogue.connection import HEAD
from appliance.catalogue.tables import metadata
from appliance.errors import Missing, SettingsError


def test_the_migrations_make_the_tables_of_the_code(catalogue: Catalogue) -> None:
    assert catalogue.version() == HEAD
    with catalogue.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_sqlite_is_durable_and_consistent(catalogue: Catalogue) -> None:
    with catalogue.read() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_a_failed_write_leaves_nothing(catalogue: Catalogue) -> None:
    with pytest.raises(ZeroDivisionError), catalogue.write() as connection:  # noqa: PT012
        connection.execute(text("INSERT INTO process VALUES ('h', 'n', 1, 1.0, '{}')"))
        _ = 1 / 0
    with catalogue.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM process")).scalar() == 0


def test_a_newer_schema_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    with catalogue.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match=r"9999.*newer version"):
        open_catalogue(catalogue.url, tmp_path)


def test_a_database_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"catalogue\.url"):
        open_catalogue(f"sqlite:///{tmp_path}/no/such/folder/c.db", tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://a:secretpw@h/db",
        "postgresql://a:secretpw@h/db",
        "mysql://a:secretpw@h/db",
        "postgresql+psycopg://a:secretpw@h:port/db",
        "postgresql+psycopg://a:x@secretpw@h/db",
        "postgresql+psycopg:/a:secretpw@h/db",
        "a:secretpw@h",
        "sqlite+mumble:///secretpw",
    ],
)
def test_a_bad_url_never_shows_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"catalogue\.url = .*sqlite:///FILE or postgresql\+psycopg://") as refused:
        open_catalogue(url, tmp_path)
    assert "secretpw" not in str(refused.value)


def test_a_bad_url_is_a_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"catalogue\.url"):
        open_catalogue("mumble://x", tmp_path)

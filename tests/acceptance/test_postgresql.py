"""The catalogue on a real PostgreSQL: one writer at a time, lost connections are noticed, and a backup of it comes
back, be it into SQLite."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from appliance.catalogue import Catalogue, connection, copying, events, open_catalogue
from appliance.settings import load
from tests.acceptance.network import Host, hosts
from tests.appliance.catalogue.rows import queued_job
from tests.appliance.catalogue.schemas import (
    VERSIONS,
    goes_back_step_by_step,
    goes_forward_back_and_forward,
    shapes_of,
)
from tests.appliance.cli.in_process import curie
from tests.appliance.test_backup import all_rows
from tests.postgresql import PostgreSQL
from workers.auditing import Auditing

pytestmark = pytest.mark.acceptance
UID = "2.25.1914"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PostgreSQL, Host]]:
    """A server on a host of its own."""
    with hosts("database") as (host,):
        server = PostgreSQL(tmp_path_factory.mktemp("database") / "postgresql", host.address, 5432, host.inside())
        server.start()
        yield server, host
        server.stop()


@pytest.fixture
def url(place: tuple[PostgreSQL, Host]) -> str:
    """An empty database."""
    return place[0].create()


@pytest.fixture
def filled(url: str, tmp_path: Path) -> Iterator[Catalogue]:
    opened = open_catalogue(url, tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shapes(place: tuple[PostgreSQL, Host]) -> Iterator[dict[str, Any]]:
    """The schema of each version."""
    fresh = Catalogue(place[0].create())
    yield shapes_of(fresh)
    fresh.close()


@pytest.fixture
def old(url: str) -> Iterator[Catalogue]:
    """A database without tables."""
    opened = Catalogue(url)
    yield opened
    opened.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_goes_forward_back_and_forward_again(old: Catalogue, shapes: dict[str, Any], version: str) -> None:
    goes_forward_back_and_forward(old, shapes, version)


def test_going_back_loses_only_what_the_older_one_does_not_know(old: Catalogue, shapes: dict[str, Any]) -> None:
    goes_back_step_by_step(old, shapes)


def test_who_reads_and_then_writes_is_alone_with_it(filled: Catalogue) -> None:
    """As dispatch and a worker do: each looks at what the other is about to change."""

    def raise_it(number: int) -> None:
        with filled.write() as rows:
            found = events.last_detail(rows, "counted").get("count", 0)
            time.sleep(0.05)
            events.record(rows, "counted", count=found + 1)

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(raise_it, range(8)))
    with filled.read() as rows:
        assert events.last_detail(rows, "counted") == {"count": 8}


def test_a_writer_that_falls_silent_keeps_nobody_waiting(filled: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HELD_S", 1)
    writes = threading.Event()

    def next_one() -> float:
        writes.wait()
        began = time.monotonic()
        with filled.write() as rows:
            events.record(rows, "second_written")
        return time.monotonic() - began

    with ThreadPoolExecutor(1) as other:
        waited = other.submit(next_one)
        with pytest.raises(DBAPIError), filled.write() as rows:  # noqa: PT012
            events.record(rows, "first_written")
            writes.set()
            time.sleep(3)
            events.record(rows, "first_written")
        assert waited.result() < 2
    with filled.read() as rows:
        assert events.last_detail(rows, "second_written") == {}
        assert rows.execute(text("SELECT count(*) FROM event WHERE kind = 'first_written'")).scalar() == 0


def test_a_pulled_cable_is_noticed(filled: Catalogue, place: tuple[PostgreSQL, Host]) -> None:
    asked = threading.Event()

    def seconds_of(statement: str, *, before: bool) -> float:
        with filled.read() as rows:
            rows.execute(text("SELECT 1"))
            if before:
                asked.set()
            else:
                time.sleep(1)
            began = time.monotonic()
            with pytest.raises(OperationalError):
                rows.execute(text(statement))
        return time.monotonic() - began

    with ThreadPoolExecutor(2) as two:
        running = two.submit(seconds_of, "SELECT pg_sleep(60)", before=True)
        asked.wait()
        time.sleep(0.5)
        sent = two.submit(seconds_of, "SELECT 1", before=False)
        time.sleep(0.5)
        place[1].cut_off()
        try:
            assert max(running.result(), sent.result()) < 2 * connection.UNANSWERED_S
        finally:
            place[1].plug_in()


def home_on(folder: Path, url: str) -> Path:
    """Return a folder of the one appliance, whose catalogue is there."""
    assert curie("init", str(folder), cwd=folder.parent).returncode == 0
    file = folder / "curie.toml"
    settings, count = re.subn(r'^uid = ".*"', f'uid = "{UID}"', file.read_text(), flags=re.MULTILINE)
    assert count == 1
    assert "[catalogue]" not in settings.replace("#[catalogue]", "")
    file.write_text(f'{settings}\n[catalogue]\nurl = "{url}"\n')
    return folder


def opened(home: Path) -> Catalogue:
    settings = load(home / "curie.toml")
    return open_catalogue(settings.catalogue_url, settings.data_dir)


@pytest.mark.parametrize("way", ["postgresql to postgresql", "postgresql to sqlite", "sqlite to postgresql"])
def test_a_backup_comes_back_whatever_database_holds_it(
    place: tuple[PostgreSQL, Host], tmp_path: Path, way: str
) -> None:
    source, target = (
        place[0].create() if name == "postgresql" else f"sqlite:///{tmp_path}/{end}.db"
        for end, name in zip(("source", "target"), way.split(" to "), strict=True)
    )
    home, other, copies = home_on(tmp_path / "home", source), home_on(tmp_path / "other", target), tmp_path / "copies"
    catalogue = opened(home)
    for study in ("1", "2"):
        queued_job(catalogue, study)
    Auditing(load(home / "curie.toml"), catalogue)
    before = all_rows(catalogue)
    catalogue.close()
    image = load(home / "curie.toml").data_dir / "spool" / "ab" / "1.dcm"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"image")

    copies.mkdir()
    ran = curie("backup", str(copies), "--json", cwd=home)
    assert ran.returncode == 0, ran.stderr
    file = json.loads(ran.stdout)["path"]
    ran = curie("restore", file, "--json", cwd=other)
    assert ran.returncode == 0, ran.stderr

    assert (load(other / "curie.toml").data_dir / "spool" / "ab" / "1.dcm").read_bytes() == b"image"
    restored = opened(other)
    after = all_rows(restored)
    assert {name for name in before if before[name] != after[name]} == {"event"}
    assert after["event"][:-1] == before["event"]
    assert after["event"][-1].kind == "backup_restored"
    queued_job(restored, "3")  # numbers go on where they were
    restored.close()
    assert curie("audit", "verify", cwd=other).returncode == 0
    ran = curie("restore", file, cwd=home_on(tmp_path / "third", target))
    assert (ran.returncode, "empty database" in ran.stderr) == (3, True)


def test_a_backup_is_of_one_moment(filled: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that refer to each other come together, however much is written meanwhile."""
    queued_job(filled, "1")
    before = all_rows(filled)
    copy = copying._copy

    def copy_slowly(source: object, target: object) -> None:
        source.execute(text("SELECT 1"))  # type: ignore[attr-defined]
        queued_job(filled, "2")
        copy(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "_copy", copy_slowly)
    copying.save(filled, tmp_path / "rows.db")
    kept = open_catalogue(f"sqlite:///{tmp_path}/rows.db", tmp_path)
    assert all_rows(kept) == before
    kept.close()

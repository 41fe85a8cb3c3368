"""`curie audit verify | export` through the real command line, on a chain that dispatch's own code sealed."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from appliance.catalogue import events, open_catalogue
from appliance.settings import load
from tests.appliance.cli.in_process import curie
from workers.auditing import Auditing


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An appliance with a few sealed events."""
    assert curie("init", str(tmp_path / "home"), cwd=tmp_path).returncode == 0
    settings = load(tmp_path / "home" / "curie.toml")
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    with catalogue.write() as connection:
        for number in range(3):
            events.record(connection, "job_queued", study="1.2", job=str(number))
    Auditing(settings, catalogue)
    catalogue.close()
    return tmp_path / "home"


def verified(home: Path, *words: str) -> tuple[int, dict[str, object]]:
    ran = curie("audit", "verify", "--json", *words, cwd=home)
    told: dict[str, object] = json.loads(ran.stdout)
    return ran.returncode, told


def test_one_changed_row_is_found(home: Path) -> None:
    code, told = verified(home)
    assert (code, told["links"], told["flaws"]) == (0, 4, [])  # the settings that were read for the first time too
    with sqlite3.connect(home / "curie-data" / "curie.db") as database:
        database.execute("UPDATE event SET job_id = '7' WHERE seq = 2")
    code, told = verified(home)
    assert code == 1
    assert told["flaws"] == [{"number": 2, "seq": 2, "text": "it is not what was sealed"}]
    ran = curie("audit", "verify", cwd=home)
    assert "event 2: it is not what was sealed" in ran.stderr
    assert "broken in 1 places" in ran.stdout


def test_an_export_is_looked_at_without_the_catalogue(home: Path, tmp_path: Path) -> None:
    head = str(verified(home)[1]["head"])
    assert curie("audit", "export", "out.jsonl", cwd=home).returncode == 0
    code, told = verified(home, "--file", "out.jsonl", "--head", head)
    assert (code, told["links"], told["head"]) == (0, 4, head)
    path = home / "out.jsonl"
    path.write_text(path.read_text().replace("job_queued", "job_cancelled", 1))
    assert verified(home, "--file", "out.jsonl")[0] == 1
    assert curie("audit", "export", "out.jsonl", cwd=home).returncode == 2  # it is there already
    path.write_text("no chain")
    ran = curie("audit", "verify", "--file", "out.jsonl", cwd=home)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (3, 1)
    assert verified(home)[1]["unsealed"] == 1  # the export is an event itself


def test_a_head_is_64_digits_and_must_be_in_the_chain(home: Path) -> None:
    assert curie("audit", "verify", "--head", "abc", cwd=home).returncode == 2
    code, told = verified(home, "--head", "0" * 64)
    assert code == 1
    assert "made anew" in str(told["flaws"])


def test_changed_settings_are_an_event_without_their_values(home: Path) -> None:
    file = home / "curie.toml"
    file.write_text(
        file.read_text().replace('name = "', 'name = "other-', 1) + '[alerts]\nsmtp = "smtp://b?to=x@y&auth=secret"\n'
    )
    settings = load(file)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    Auditing(settings, catalogue)
    Auditing(settings, catalogue)
    with catalogue.read() as connection:
        detail = events.last_detail(connection, "settings_changed")
        count = connection.exec_driver_sql("SELECT count(*) FROM event WHERE kind = 'settings_changed'").scalar()
    catalogue.close()
    assert detail["tables"] == ["alerts", "appliance"]
    assert count == 2
    assert "secret" not in str(detail)

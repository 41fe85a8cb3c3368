"""What was backed up comes back row for row and byte for byte, into another database too; what is damaged does not."""

from __future__ import annotations

import json
import re
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from appliance.catalogue import Catalogue, copying, open_catalogue
from appliance.catalogue.tables import metadata
from appliance.errors import Missing
from appliance.settings import load
from tests.appliance.catalogue.rows import queued_job
from tests.appliance.cli.in_process import curie
from workers.auditing import Auditing

FILES = {
    "spool/ab/1.dcm": b"image",
    "results/r/1.dcm": b"result",
    "keys/site.key": b"key",
    "sidecar/ledger.jsonl": b"{}\n",
    "engines/plan": b"made anew",
    "sidecar/work/request.bin": b"made anew",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An appliance with rows, sealed events and files."""
    assert curie("init", str(tmp_path / "home"), cwd=tmp_path).returncode == 0
    settings = load(tmp_path / "home" / "curie.toml")
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    for study in ("1", "2"):
        queued_job(catalogue, study)
    Auditing(settings, catalogue)
    catalogue.close()
    for name, content in FILES.items():
        (settings.data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (settings.data_dir / name).write_bytes(content)
    return tmp_path / "home"


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """A backup of it."""
    (tmp_path / "copies").mkdir()
    ran = curie("backup", str(tmp_path / "copies"), "--json", cwd=home)
    assert ran.returncode == 0, ran.stderr
    return Path(json.loads(ran.stdout)["path"])


def new_home(folder: Path, copy: Path) -> Path:
    """Return a folder with the settings of a backup, and nothing else."""
    folder.mkdir()
    with tarfile.open(copy) as archive:
        archive.extract("curie.toml", folder, filter="data")
    return folder


def rows(home: Path) -> dict[str, list[Any]]:
    settings = load(home / "curie.toml")
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    found = all_rows(catalogue)
    catalogue.close()
    return found


def all_rows(catalogue: Catalogue) -> dict[str, list[Any]]:
    with catalogue.read() as connection:
        return {one.name: list(connection.execute(select(one)).all()) for one in metadata.sorted_tables}


def test_all_comes_back_and_the_audit_s_chain_goes_on(home: Path, copy: Path, tmp_path: Path) -> None:
    assert copy.stat().st_mode & 0o077 == 0
    other = new_home(tmp_path / "other", copy)
    ran = curie("restore", str(copy), "--json", cwd=other)
    assert ran.returncode == 0, ran.stderr
    for name, content in FILES.items():
        there = other / "curie-data" / name
        assert there.read_bytes() == content if content != b"made anew" else not there.exists()
    before, after = rows(home), rows(other)
    told = {name for name in before if before[name] != after[name]}
    assert told == {"event"}
    assert [one.kind for one in after["event"]][-1] == "backup_restored"
    assert curie("audit", "verify", cwd=other).returncode == 0


@pytest.mark.parametrize("how", ["changed", "cut off", "something else"])
def test_a_damaged_backup_is_refused_and_leaves_nothing(copy: Path, tmp_path: Path, how: str) -> None:
    other = new_home(tmp_path / "other", copy)
    content = copy.read_bytes()
    spoilt = {"changed": content.replace(b"result", b"resalt"), "cut off": content[:9000], "something else": b"x"}
    copy.write_bytes(spoilt[how])
    ran = curie("restore", str(copy), cwd=other)
    assert ran.returncode == 3
    assert len(ran.stderr.splitlines()) == 1
    assert [one.name for one in (other / "curie-data").iterdir()] == ["up.lock"]


def test_what_was_kept_under_another_uid_is_refused_before_anything_is_written(copy: Path, tmp_path: Path) -> None:
    assert curie("init", str(tmp_path / "other"), cwd=tmp_path).returncode == 0
    other = tmp_path / "other"
    before = sorted(other.rglob("*"))
    ran = curie("restore", str(copy), cwd=other)
    assert ran.returncode == 2
    with tarfile.open(copy) as archive:
        told = json.loads(archive.extractfile("MANIFEST.json").read())  # type: ignore[union-attr]
    assert f'[appliance]: uid = "{told["appliance"]}"' in " ".join(ran.stderr.split())
    assert {one.name for one in set(other.rglob("*")) - set(before)} <= {"curie-data", "up.lock"}


def test_a_backup_that_is_not_there_is_said_with_the_next_step(home: Path, tmp_path: Path) -> None:
    ran = curie("restore", str(tmp_path / "nothing.tar"), cwd=home)
    assert ran.returncode == 3
    assert "nothing.tar is no file; name one that `curie backup` wrote, curie-NAME-TIME.tar" in " ".join(
        ran.stderr.split()
    )


def test_nothing_is_restored_over_anything(home: Path, copy: Path) -> None:
    ran = curie("restore", str(copy), cwd=home)
    assert ran.returncode == 3
    assert "empty data_dir" in ran.stderr


def test_images_may_be_left_out_and_old_copies_of_ours_go(home: Path, copy: Path) -> None:
    beginning = copy.name[: -len("20260101T000000000000Z.tar")]
    ours = [f"{beginning}2000010{number}T000000000000Z.tar" for number in (1, 2)]
    others = ["curie-20000101T000000000000.tar", f"{beginning}of-another-20000101T000000000000Z.tar", "other.tar"]
    for name in (*ours, *others):
        (copy.parent / name).write_bytes(b"x")
    ran = curie("backup", str(copy.parent), "--no-images", "--keep", "2", "--json", cwd=home)
    assert ran.returncode == 0, ran.stderr
    newest = Path(json.loads(ran.stdout)["path"])
    assert {one.name for one in copy.parent.iterdir()} == {copy.name, newest.name, *others}
    with tarfile.open(newest) as archive:
        assert not [one for one in archive.getnames() if one.startswith("data/spool")]


def test_a_copy_bears_name_and_time_of_its_appliance(home: Path, copy: Path, tmp_path: Path) -> None:
    assert re.fullmatch(r"curie-curie-[0-9a-f]{6}-\d{8}T\d{12}Z\.tar", copy.name)
    written = datetime.strptime(copy.name.rpartition("-")[2], "%Y%m%dT%H%M%S%fZ.tar").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - written) < timedelta(minutes=1)
    assert curie("init", str(tmp_path / "twin"), cwd=tmp_path).returncode == 0
    ran = curie("backup", str(copy.parent), "--keep", "1", cwd=tmp_path / "twin")
    assert ran.returncode == 0, ran.stderr
    assert copy.exists(), "another appliance of the same name"


def test_rows_go_from_one_database_into_another_only_if_it_is_empty(catalogue: Catalogue, tmp_path: Path) -> None:
    queued_job(catalogue, "1")
    copying.save(catalogue, tmp_path / "rows.db")
    other = open_catalogue(f"sqlite:///{tmp_path}/other.db", tmp_path)
    copying.fill(other, tmp_path / "rows.db")
    assert all_rows(other) == all_rows(catalogue)
    with pytest.raises(Missing, match="holds rows"):
        copying.fill(other, tmp_path / "rows.db")
    other.close()

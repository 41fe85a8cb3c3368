"""Commands whose work is tested elsewhere from inside, each once as a person types it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from appliance.catalogue import open_catalogue
from appliance.catalogue.connection import now
from appliance.catalogue.tables import study
from tests.appliance.catalogue.rows import queued_job
from tests.appliance.cli.in_process import curie

SETTINGS = """
[appliance]
data_dir = "data"
[worker]
backends = ["onnxruntime"]
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 1
[[routes]]
name = "brain-mr"
package = "brain-structures"
destinations = ["pacs"]
[federation]
coordinator = "grpcs://fl.example.org:8002"
kit = "kit"
packages = ["hippocampus"]
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "curie.toml").write_text(SETTINGS)
    return tmp_path


@pytest.fixture
def job(home: Path) -> str:
    """The id of a queued job on study 1.2.3."""
    catalogue = open_catalogue(f"sqlite:///{home}/data/curie.db", home / "data")
    made = queued_job(catalogue, "1.2.3")
    catalogue.close()
    return made


def test_the_pages_for_the_pacs_team(home: Path) -> None:
    assert curie("conformance", cwd=home).stdout.startswith("# ")
    assert "CURIE" in curie("request-form", cwd=home).stdout


def test_what_is_set_up_is_listed(home: Path) -> None:
    assert [one["name"] for one in json.loads(curie("destinations", "list", "--json", cwd=home).stdout)] == ["pacs"]
    assert [one["name"] for one in json.loads(curie("routes", "list", "--json", cwd=home).stdout)] == ["brain-mr"]
    ran = curie("destinations", "test", "pacs", cwd=home)
    assert ran.returncode == 1
    assert "pacs" in ran.stdout


def test_a_study_is_listed_shown_and_forgotten(home: Path, job: str) -> None:
    assert len(json.loads(curie("studies", "list", "--json", cwd=home).stdout)) == 1
    assert "1.2.3" in curie("studies", "show", "1.2.3", cwd=home).stdout
    assert curie("jobs", "cancel", job, cwd=home).returncode == 0
    ran = curie("studies", "forget", "1.2.3", "--reason", "asked", "--yes", cwd=home)
    assert ran.returncode == 0, ran.stderr


def test_a_job_is_cancelled_and_tried_again(home: Path, job: str) -> None:
    assert curie("jobs", "cancel", job, cwd=home).returncode == 0
    assert json.loads(curie("jobs", "show", job, "--json", cwd=home).stdout)["state"] == "cancelled"
    assert curie("jobs", "retry", job, cwd=home).returncode == 0
    assert json.loads(curie("jobs", "show", job, "--json", cwd=home).stdout)["state"] == "queued"


def test_what_is_not_there_cannot_be_computed_again(home: Path) -> None:
    ran = curie("reproduce", "2.25.404", cwd=home)
    assert ran.returncode == 3
    assert "2.25.404" in ran.stderr
    ran = curie("studies", "replay", "2.25.404", "--package", "brain-structures@9.9.9", cwd=home)
    assert ran.returncode == 3
    assert "9.9.9" in ran.stderr


def test_the_studies_of_some_days_are_replayed_and_never_sent(home: Path, job: str) -> None:
    words = ("studies", "replay", "--package", "brain-structures", "--json")
    ran = curie(*words, "--days", "7", cwd=home)
    assert ran.returncode == 0, ran.stderr
    assert [one["study_instance_uid"] for one in json.loads(ran.stdout)] == ["1.2.3"]
    catalogue = open_catalogue(f"sqlite:///{home}/data/curie.db", home / "data")
    with catalogue.write() as connection:
        connection.execute(update(study).values(last_received_at=now() - timedelta(days=8)))
    catalogue.close()
    assert json.loads(curie(*words, "--days", "7", cwd=home).stdout) == []
    assert len(json.loads(curie(*words, "--days", "9", cwd=home).stdout)) == 1
    for wrong in (("--days", "9", "--send"), ("1.2.3", "--days", "9"), ()):
        ran = curie(*words, *wrong, cwd=home)
        assert (ran.returncode, ran.stderr[:19]) == (2, "curie: name studies")


def test_keys_and_requests_are_made(home: Path) -> None:
    assert curie("models", "key", "publisher.key", cwd=home).returncode == 0
    assert (home / "publisher.pub").is_file()
    assert curie("tls", "csr", cwd=home).returncode == 0
    assert (home / "tls" / "curie.csr").is_file()


def test_a_package_is_begun(home: Path) -> None:
    ran = curie(
        "models", "new", "my-organs", "--from", "torch", "--modality", "CT", "--segments", "liver,spleen",
        "--roi", "96,96,96", cwd=home,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert list((home / "my-organs").iterdir())


def test_a_folder_without_a_bundle_is_said(home: Path) -> None:
    ran = curie("models", "import-bundle", ".", "--out", "out", cwd=home)
    assert ran.returncode == 3
    assert "configs/metadata.json" in ran.stderr


def test_a_site_sits_out_takes_part_again_and_leaves(home: Path) -> None:
    assert curie("federation", "pause", cwd=home).returncode == 0
    assert json.loads(curie("federation", "status", "--json", cwd=home).stdout)["paused"] is True
    assert curie("federation", "resume", cwd=home).returncode == 0
    assert json.loads(curie("federation", "status", "--json", cwd=home).stdout)["paused"] is False
    ran = curie("federation", "dry-run", cwd=home)
    assert ran.returncode == 1
    assert "there is no case to train on" in ran.stderr
    assert json.loads(curie("federation", "leave", "--json", cwd=home).stdout) == {"joined": False}


def test_a_rung_is_timed(home: Path) -> None:
    told = json.loads(curie("models", "benchmark", "head-bleed", "--runs", "1", "--json", cwd=home).stdout)
    assert [(one["rung"], one["reason"]) for one in told] == [("onnxruntime", "")]
    assert told[0]["window_ms"] > 0

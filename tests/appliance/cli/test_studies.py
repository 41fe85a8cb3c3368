"""A forgotten study is called so wherever it is shown, and is forgotten once."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest

from appliance.catalogue import jobs, open_catalogue
from appliance.catalogue.connection import now
from tests.appliance.catalogue.rows import queued_job
from tests.appliance.cli.in_process import curie


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An appliance with study 1, whose job ended."""
    (tmp_path / "curie.toml").write_text('[appliance]\ndata_dir = "data"\n')
    catalogue = open_catalogue(f"sqlite:///{tmp_path}/data/curie.db", tmp_path / "data")
    queued_job(catalogue, "1")
    with catalogue.write() as connection:
        held = jobs.claim(connection, "worker", now())
        assert held is not None
        jobs.finish(connection, held, "failed", "no GPU", now())
    catalogue.close()
    return tmp_path


def test_it_says_who_forgot_it_and_when(home: Path) -> None:
    forget = ("studies", "forget", "1", "--reason", "asked", "--yes")
    first = curie(*forget, "--json", cwd=home)
    assert json.loads(first.stdout) == {
        "study_instance_uid": "1", "images": 1, "results": 0, "cases": 0, "before": None,
    }  # fmt: skip
    sentence = f"forgotten on {now():%Y-%m-%d} by {getpass.getuser()}"
    assert f"{sentence}: images, results and training cases are deleted" in curie("explain", "1", cwd=home).stdout
    listed = curie("studies", "list", cwd=home).stdout.split()
    assert set(sentence.split()) < set(listed)
    assert curie(*forget, cwd=home).stdout == f"it was {sentence} already; nothing is recorded\n"
    assert json.loads(curie(*forget, "--json", cwd=home).stdout)["before"]["reason"] == "asked"


def test_help_says_who_reads_the_reason(home: Path) -> None:
    told = " ".join(curie("studies", "forget", "--help", cwd=home).stdout.replace("│", " ").split())
    assert "Write no name." in told
    assert "every viewer" in told

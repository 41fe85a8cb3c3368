"""The image: its file is clean, and everything that it copies gets into the build."""

from __future__ import annotations

import fnmatch
import re
import tomllib

import pytest

from tests.deploy.tools import DEPLOY, ROOT, run, succeeds, tool

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
STAGES = DOCKERFILE.split("\nFROM ")


def test_hadolint_finds_nothing() -> None:
    assert succeeds(tool("hadolint"), DEPLOY / "Dockerfile") == ""


def test_hadolint_would_find_something(tmp_path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("--no-install-recommends ", ""))
    assert "DL3015" in run(tool("hadolint"), tmp_path / "Dockerfile").stdout


def copied() -> list[str]:
    """What the Dockerfile takes from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [word for line in lines for word in line.split()[:-1]]


def test_all_that_is_copied_is_there_and_not_ignored() -> None:
    admitted = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    assert sorted(copied()) == sorted(admitted)
    for path in copied():
        assert (ROOT / path).exists(), path


def test_all_packages_are_copied() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    for pattern in wanted:
        assert any(fnmatch.fnmatch(path, pattern) for path in copied()), pattern


def test_torch_is_the_tested_one() -> None:
    (asked,) = re.findall(r"torch==\S+", DOCKERFILE)
    assert asked in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_every_variant_names_extras_that_there_are(variant: str) -> None:
    (extras,) = re.findall(rf"AS wheels-{variant}\n.*EXTRAS=(\S+)", DOCKERFILE)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)


def test_the_last_stage_has_no_compiler_no_root_and_a_health_check() -> None:
    last = STAGES[-1]
    assert "build-essential" not in last
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert last.index("USER ") > last.rindex("RUN "), "nothing is installed as the user that serves"
    assert "STOPSIGNAL SIGTERM" in last
    assert re.search(r'^ +CMD \["python", "/usr/local/lib/curie/healthy.py"\]$', last, re.MULTILINE)
    assert "COPY deploy/healthy.py /usr/local/lib/curie/healthy.py" in last

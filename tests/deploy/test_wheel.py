"""The wheel holds all that the repository holds of its packages, in the same bytes each time, and runs by itself."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.deploy.tools import DEPLOY, ROOT, run, succeeds

PACKAGES = ("appliance", "dicom_nodes", "models", "workers")
ALONE = {key: value for key, value in os.environ.items() if key not in ("CURIE_CONFIG", "PYTHONPATH")}


def in_git() -> set[str]:
    """Return the files of the packages in the last commit."""
    ran = run("git", "-C", ROOT, "ls-tree", "-r", "--name-only", "HEAD", *PACKAGES)
    if ran.returncode != 0:
        pytest.skip("no git checkout")
    return set(ran.stdout.splitlines())


def test_each_file_of_the_packages_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    patterns = [f"{package}/{one.replace('**/*', '*')}" for package, ones in declared.items() for one in ones]
    files = {path for path in in_git() if not path.endswith(".py")}
    assert files > {"appliance/console/templates/login.html", "appliance/catalogue/migrations/script.py.mako"}
    assert {path for path in files if not any(fnmatch.fnmatch(path, one) for one in patterns)} == set()


def test_another_builder_is_refused_in_one_line(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 0.1\n")
    python.chmod(0o755)
    in_git()
    ran = subprocess.run(
        ["sh", DEPLOY / "wheel.sh", tmp_path / "out", python], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1
    assert "holds setuptools 0.1, and " in ran.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the last commit."""
    in_git()
    return built(tmp_path_factory.mktemp("first"))


def built(folder: Path, **environment: str) -> Path:
    said = run("sh", DEPLOY / "wheel.sh", folder, sys.executable, env={**ALONE, **environment}, cwd="/", timeout=120)
    if "is wanted" in said.stdout:
        pytest.skip(said.stdout.splitlines()[-1])
    assert said.returncode == 0, said.stdout
    return next(folder.glob("*.whl"))


@pytest.mark.long
def test_two_builds_are_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another place"
    elsewhere.mkdir()
    time.sleep(2.1)  # a time in a wheel has two seconds' resolution
    before = os.umask(0o077)
    try:
        again = built(elsewhere / "out", TMPDIR=str(elsewhere), TZ="Asia/Tokyo", PYTHONHASHSEED="7")
    finally:
        os.umask(before)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, again)}
    assert len(digests) == 1


@pytest.mark.long
def test_it_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == in_git()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel, and sees what it needs among the packages of this one."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    succeeds(sys.executable, "-m", "venv", venv, timeout=120)
    own = next((venv / "lib").glob("python3*/site-packages"))
    # a .pth of theirs, such as that of an editable installation, is not read so
    (own / "theirs.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    succeeds(venv / "bin" / "pip", "install", "-q", "--no-index", "--no-deps", wheel, env=ALONE, timeout=120)
    where = succeeds(venv / "bin" / "python", "-c", "import workers; print(*workers.__path__)", env=ALONE, cwd="/")
    assert where.startswith(str(venv))
    return venv / "bin"


@pytest.mark.long
def test_installed_it_shows_the_demo(installed: Path, tmp_path: Path) -> None:
    assert "catch-up" in succeeds(installed / "curie", "--help", env=ALONE, cwd="/")
    said = succeeds(installed / "curie", "demo", "--out", tmp_path / "demo", env=ALONE, cwd="/", timeout=300)
    assert "SEG  committed" in said
    assert (tmp_path / "demo" / "segmentation.png").stat().st_size > 10_000


@pytest.mark.long
def test_installed_it_serves_the_console(installed: Path, tmp_path: Path, free_port: int) -> None:
    succeeds(installed / "curie", "init", tmp_path, env=ALONE)
    file = tmp_path / "curie.toml"
    file.write_text(file.read_text() + f"\n[console]\nport = {free_port}\n")
    process = subprocess.Popen([installed / "curie", "run", "console", "--config", file], env=ALONE, cwd="/")
    try:
        page = fetched(f"http://127.0.0.1:{free_port}/login")
        assert "not for clinical use" in page
        for path in ("console.css", "console.js", "icon.svg"):
            assert f"/static/{path}" in page
            assert fetched(f"http://127.0.0.1:{free_port}/static/{path}")
    finally:
        process.terminate()
        process.wait(30)


def fetched(url: str) -> str:
    deadline = time.monotonic() + 30
    while True:
        try:
            return str(urllib.request.urlopen(url, timeout=5).read().decode())
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline, url
            time.sleep(0.2)

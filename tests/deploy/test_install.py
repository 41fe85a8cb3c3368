"""install.sh: each wrong start ends with one clear line; below a prefix it installs, and leaves alone what is there."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from appliance.settings import load
from tests.deploy.tools import DEPLOY, ROOT, run, succeeds, tool

SCRIPT = DEPLOY / "install.sh"


def test_shellcheck_finds_nothing() -> None:
    assert succeeds(tool("shellcheck"), SCRIPT, DEPLOY / "wheel.sh", DEPLOY / "viewer" / "install.sh") == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nonsense"], "there is no option --nonsense"),
        (["--from"], "--from wants a value"),
        (["--from", "/absent"], "--from /absent is not there"),
        (["--from", "/proc"], "neither a checkout nor a wheel nor a folder made by --bundle"),
        (["--offline", "--root", "{tmp}"], "--offline needs a folder made by --bundle"),
        (["--offline", "--root", "{tmp}", "--from", "{tmp}/bundle"], "--offline needs --key FILE"),
        (["--python", "/bin/false", "--root", "{tmp}"], "Python 3.11 to 3.13 is needed"),
        (["--root", "/proc/absent"], "/proc/absent could not be made"),
    ],
)
def test_a_wrong_start_ends_with_one_clear_line(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "bundle" / "wheels").mkdir(parents=True)
    (tmp_path / "bundle" / "constraints.txt").touch()
    ran = run("sh", SCRIPT, *[word.format(tmp=tmp_path) for word in words])
    assert ran.returncode == 1
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("install: ")
    assert said in last
    assert len(ran.stdout.splitlines()) <= 2  # one of a system's program may come before


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root's rights away, so it needs them")
def test_without_root_it_says_so() -> None:
    with open(SCRIPT) as script:
        ran = run("setpriv", "--reuid=65534", "--clear-groups", "sh", "-s", stdin=script, cwd=DEPLOY)
    assert ran.returncode == 1
    (line,) = ran.stdout.splitlines()
    assert "this needs root" in line


def test_every_option_is_told_and_known() -> None:
    told = set(re.findall(r"^  (--[a-z]+)", run("sh", SCRIPT, "--help").stdout, re.MULTILINE))
    text = SCRIPT.read_text()
    assert told == {option for option in re.findall(r"--[a-z]+", " ".join(re.findall(r"^ +(--.*)\)", text, re.M)))} - {
        "--help"
    }


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A prefix whose environment sees the packages of this one, so that only ours is left to install."""
    root = tmp_path / "root"
    succeeds(sys.executable, "-m", "venv", root / "opt" / "curie" / "venv", timeout=120)
    places = [path for path in sys.path if path.endswith("site-packages")]
    own = next((root / "opt" / "curie" / "venv" / "lib").glob("python3*/site-packages"))
    (own / "theirs.pth").write_text("\n".join(places))
    return root


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The package as a wheel, without its models' weights: what is built here is only the way of a wheel."""
    return written_wheel(tmp_path / "wheel")


def written_wheel(folder: Path) -> Path:
    folder.mkdir()
    info = "petite_curie-0.1.0.dist-info"
    metadata = (
        "Metadata-Version: 2.1\nName: petite-curie\nVersion: 0.1.0\nProvides-Extra: postgres\nProvides-Extra: hl7\n"
    )
    with zipfile.ZipFile(folder / "petite_curie-0.1.0-py3-none-any.whl", "w") as made:
        for package in ("appliance", "dicom_nodes", "models", "workers"):
            for path in sorted((ROOT / package).rglob("*")):
                if path.is_file() and "zoo" not in path.parts and "__pycache__" not in path.parts:
                    made.write(path, path.relative_to(ROOT))
        made.writestr(f"{info}/METADATA", metadata)
        made.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{info}/entry_points.txt", "[console_scripts]\ncurie = appliance.cli:main\n")
        made.writestr(f"{info}/RECORD", "")
    return folder / "petite_curie-0.1.0-py3-none-any.whl"


def install(root: Path, *words: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    alone = {key: value for key, value in os.environ.items() if key not in ("CURIE_CONFIG", "PYTHONPATH")}
    return run("sh", SCRIPT, "--root", root, "--python", sys.executable, *words, env=alone, timeout=timeout)


def check_installed(root: Path, ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 0, ran.stdout
    assert "FAIL routes: there is none" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "install: installed; what is marked FAIL above is left to do"
    settings = load(root / "etc" / "curie" / "curie.toml")
    assert settings.data_dir == root / "var" / "lib" / "curie"
    assert re.fullmatch(r"2\.25\.\d+", settings.appliance.uid)
    for unit in ("curie.service", "curie@.service", "curie-backup.service"):
        assert (root / "etc" / "systemd" / "system" / unit).is_file()
        assert (root / "etc" / "systemd" / "system" / f"{unit}.d" / "confined.conf").is_file()
    assert (root / "etc" / "systemd" / "system" / "curie-backup.timer").is_file()
    assert (root / "etc" / "logrotate.d" / "curie").is_file()
    for folder, mode in (("etc/curie", 0o750), ("etc/curie/tls", 0o700), ("var/lib/curie", 0o750)):
        assert stat.S_IMODE((root / folder).stat().st_mode) == mode, folder
    alone = {key: value for key, value in os.environ.items() if key not in ("CURIE_CONFIG", "PYTHONPATH")}
    ran = run(root / "usr" / "local" / "bin" / "curie", "status", env=alone, cwd="/")
    assert "NOT READY" in ran.stdout, ran.stdout


@pytest.mark.long
def test_it_installs_a_wheel_below_a_prefix_and_keeps_settings(prepared: Path, wheel: Path) -> None:
    check_installed(prepared, install(prepared, "--from", wheel))
    file = prepared / "etc" / "curie" / "curie.toml"
    file.write_text(file.read_text().replace('name = "curie"', 'name = "st-elsewhere"'))
    again = install(prepared, "--from", wheel)
    assert "curie.toml is there already and stays as it is" in again.stdout
    assert load(file).appliance.name == "st-elsewhere"
    file.write_text(file.read_text() + "\n[nonsense]\n")
    broken = install(prepared, "--from", wheel)
    assert broken.returncode == 1
    assert "unknown setting nonsense" in broken.stdout
    assert "curie doctor could not run (exit code 2)" in broken.stdout.splitlines()[-1]


@pytest.mark.long
def test_it_installs_a_checkout_with_all_that_it_needs(tmp_path: Path) -> None:
    """Minutes, and the package registry."""
    root = tmp_path / "root"
    check_installed(root, install(root, timeout=3000))
    inside = root / "opt" / "curie" / "venv" / "bin" / "python"
    where = succeeds(inside, "-c", "import torch, appliance; print(torch.__file__, appliance.__file__)", cwd="/")
    assert all(path.startswith(str(root)) for path in where.split())
    assert sysconfig.get_path("purelib") not in where

"""Promote and rollback as a system administrator does them: a name, a reason, one active version, all on record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models.package import sign_package
from models.registry import ZOO
from models.signing import make_key, read_private_key
from tests.appliance.cli.in_process import curie

WHO = ("--by", "A. Person", "--reason", "it is better")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed version 9.0.0 of the shipped package."""
    folder = tmp_path_factory.mktemp("made")
    make_key(folder / "publisher.key")
    package = Path(shutil.copytree(ZOO / "brain-structures", folder / "package"))
    declared = json.loads((package / "package.json").read_text()) | {"version": "9.0.0"}
    (package / "package.json").write_text(json.dumps(declared))
    sign_package(package, read_private_key(folder / "publisher.key"))
    return folder


def home_of(folder: Path, made: Path, more: str = "") -> Path:
    assert curie("init", str(folder)).returncode == 0
    file = folder / "curie.toml"
    text = file.read_text() + f'\n[models]\ntrusted_keys = ["{made}/publisher.pub"]\n{more}'
    file.write_text(text)
    return folder


def states(home: Path) -> dict[str, str]:
    listed = json.loads(curie("models", "list", "--json", cwd=home).stdout)
    return {one["version"]: one["state"] for one in listed if one["package"] == "brain-structures"}


def test_the_life_of_a_version(made: Path, tmp_path: Path) -> None:
    home = home_of(tmp_path, made)
    (shipped,) = states(home)
    ran = curie("models", "install", str(made / "package"), "--json", cwd=home)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["state"], told["backend"]) == ("candidate", "openvino f32")
    assert [one["rung"] for one in told["skipped"]] == ["tensorrt", "tensorrt-rtx", "torch-cuda"]
    assert states(home) == {shipped: "active", "9.0.0": "candidate"}

    without = curie("models", "promote", "brain-structures@9.0.0", cwd=home)
    assert without.returncode == 2
    assert curie("models", "promote", "brain-structures@9.0.0", "--by", " ", "--reason", "x", cwd=home).returncode == 2
    ran = curie("models", "promote", "brain-structures@9.0.0", *WHO, "--json", cwd=home)
    assert json.loads(ran.stdout)["before"] == shipped
    assert states(home) == {shipped: "retired", "9.0.0": "active"}

    assert curie("models", "rollback", "brain-structures", *WHO, cwd=home).returncode == 0
    assert states(home) == {shipped: "active", "9.0.0": "retired"}
    shown = json.loads(curie("models", "show", "brain-structures@9.0.0", "--json", cwd=home).stdout)
    assert [(one["kind"], one["person"]) for one in shown["history"]] == [
        ("rollback", "A. Person"),
        ("promote", "A. Person"),
        ("shipped", "Petite Curie"),
    ]
    assert shown["engines"][0]["parity"][0]["reason"] == ""
    text = curie("models", "show", "brain-structures@9.0.0", cwd=home).stdout
    assert "Not for clinical use" in text
    assert "differs by" in text


def test_two_persons_where_the_settings_ask_for_them(made: Path, tmp_path: Path) -> None:
    home = home_of(tmp_path, made, "two_person_promotion = true\n")
    assert curie("models", "install", str(made / "package"), "--no-build", cwd=home).returncode == 0
    early = curie("models", "promote", "brain-structures@9.0.0", *WHO, cwd=home)
    assert early.returncode == 2
    assert "models build" in early.stderr
    assert curie("models", "build", "brain-structures@9.0.0", cwd=home).returncode == 0
    first = curie("models", "promote", "brain-structures@9.0.0", *WHO, cwd=home)
    assert first.returncode == 0
    assert "second person" in first.stdout
    assert states(home)["9.0.0"] == "candidate"
    again = curie("models", "promote", "brain-structures@9.0.0", *WHO, cwd=home)
    assert again.returncode == 2
    assert "waits for a second person" in again.stderr
    other = ("--by", "B. Person", "--reason", "agreed")
    assert curie("models", "promote", "brain-structures@9.0.0", *other, cwd=home).returncode == 0
    assert states(home)["9.0.0"] == "active"


def test_shadow_on_and_off_and_retire(made: Path, tmp_path: Path) -> None:
    home = home_of(tmp_path, made)
    assert curie("models", "install", str(made / "package"), cwd=home).returncode == 0
    assert curie("models", "shadow", "brain-structures@9.0.0", cwd=home).returncode == 0
    assert states(home)["9.0.0"] == "shadow"
    assert curie("models", "shadow", "brain-structures@9.0.0", "--off", cwd=home).returncode == 0
    assert states(home)["9.0.0"] == "candidate"
    assert curie("models", "retire", "brain-structures", *WHO, cwd=home).returncode == 0
    assert "active" not in states(home).values()
    gone = curie("models", "show", "brain-structures", cwd=home)
    assert gone.returncode == 3
    assert "no version of brain-structures is active" in gone.stderr

"""Asking by name gives that package or an error that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from appliance.errors import Missing, PackageRefused
from models.package import Package, write_manifest
from models.registry import active_package, installed_packages


def install(shipped: Package, data_dir: Path, version: str, identity: str = "brain-structures") -> Path:
    """Put a copy of the shipped package under another version into the site's folder."""
    folder = Path(shutil.copytree(shipped.folder, data_dir / "packages" / identity / version))
    declared = json.loads((folder / "package.json").read_text()) | {"version": version, "id": identity}
    (folder / "package.json").write_text(json.dumps(declared))
    write_manifest(folder)
    return folder


def test_without_site_packages_the_shipped_one_is_active(shipped: Package, tmp_path: Path) -> None:
    assert active_package("brain-structures", tmp_path).digest == shipped.digest
    assert [one.id for one in installed_packages(tmp_path)] == ["brain-structures"]


def test_the_newest_version_by_number_is_active_and_an_old_one_can_be_named(shipped: Package, tmp_path: Path) -> None:
    for version in ("9.9.0", "9.10.0"):
        install(shipped, tmp_path, version)
    assert active_package("brain-structures", tmp_path).version == "9.10.0"
    assert active_package("brain-structures@9.9.0", tmp_path).version == "9.9.0"
    assert [one.version for one in installed_packages(tmp_path)] == [shipped.version, "9.9.0", "9.10.0"]


@pytest.mark.parametrize("name", ["hippocampus", "brain-structures@8.8.8", "", "zoo"])
def test_what_is_not_there_is_missing_with_the_next_step(name: str, tmp_path: Path) -> None:
    with pytest.raises(Missing, match="curie models list"):
        active_package(name, tmp_path)


def test_a_damaged_version_is_refused_and_not_passed_over(shipped: Package, tmp_path: Path) -> None:
    (install(shipped, tmp_path, "9.9.0") / "card.md").write_text("changed")
    with pytest.raises(PackageRefused, match=r"9\.9\.0.*card\.md"):
        active_package("brain-structures", tmp_path)
    assert active_package(f"brain-structures@{shipped.version}", tmp_path).digest == shipped.digest


def test_another_damaged_package_does_not_matter(shipped: Package, tmp_path: Path) -> None:
    (install(shipped, tmp_path, "1.0.0", "hippocampus") / "card.md").write_text("changed")
    assert active_package("brain-structures", tmp_path).digest == shipped.digest


def test_a_package_in_a_wrong_place_is_refused(shipped: Package, tmp_path: Path) -> None:
    install(shipped, tmp_path, "9.9.0").rename(tmp_path / "packages" / "brain-structures" / "9.9.1")
    with pytest.raises(PackageRefused, match="wrong place"):
        active_package("brain-structures", tmp_path)

"""Installing takes a package whole or not at all; one version is active, and only a person changes which."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.catalogue import Catalogue, packages
from appliance.catalogue.connection import now
from appliance.errors import Missing, PackageRefused, SettingsError
from appliance.package_life import Change
from appliance.settings import Settings, parse
from models.gate import inspect
from models.package import MANIFEST, SIGNATURE, Package, sign_package
from models.registry import Registry, _loaded, open_registry
from models.signing import make_key, read_private_key


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    make_key(tmp_path / "publisher.key")
    return parse(f'[models]\ntrusted_keys = ["{tmp_path}/publisher.pub"]\n', tmp_path / "curie.toml")


@pytest.fixture
def registry(settings: Settings, catalogue: Catalogue) -> Registry:
    return open_registry(settings, catalogue)


def version_of(shipped: Package, tmp_path: Path, version: str, identity: str = "brain-structures") -> Path:
    """Return a signed copy of the shipped package under another version."""
    folder = Path(shutil.copytree(shipped.folder, tmp_path / "made" / identity / version))
    declared = json.loads((folder / "package.json").read_text()) | {"version": version, "id": identity}
    (folder / "package.json").write_text(json.dumps(declared))
    sign_package(folder, read_private_key(tmp_path / "publisher.key"))
    return folder


def promote(registry: Registry, name: str) -> None:
    """Make a version active, as the command does."""
    at = now()
    with registry.catalogue.write() as connection:
        row = packages.version(connection, *name.split("@"))
        assert row is not None
        if row.state == "installed":
            packages.set_state(connection, row, "candidate", at)
            row = packages.version(connection, *name.split("@"))
            assert row is not None
        held = packages.active(connection, row.package)
        change = Change(row.package, "promote", held.version if held else "", row.version, "A", "B", at, "", at)
        packages.make_active(connection, row, change, at)
        packages.record_change(connection, change)


def test_what_ships_is_installed_signed_and_active_where_no_version_was_before(
    registry: Registry, shipped: Package
) -> None:
    row = registry.row("brain-structures")
    assert (row.version, row.digest, row.state) == (shipped.version, shipped.digest, "active")
    assert registry.package("brain-structures").folder == registry.place(row)
    assert registry.verified(row).signer == row.signer != ""
    assert registry.shadows("brain-structures") == []


def test_a_process_that_is_killed_before_it_activates_what_ships_is_made_good_by_the_next(
    settings: Settings, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Registry, row: object) -> None:
        raise SystemExit(9)

    monkeypatch.setattr(Registry, "_activate_first", killed)
    with pytest.raises(SystemExit):
        open_registry(settings, catalogue)
    monkeypatch.undo()
    found = open_registry(settings, catalogue).versions()
    assert found
    assert {row.state for row in found} == {"active"}


def test_a_new_shipped_version_waits_for_a_person(
    registry: Registry, shipped: Package, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = tmp_path / "zoo"
    newer = version_of(shipped, tmp_path, "9.0.0")
    shutil.copytree(newer, zoo / "brain-structures")
    monkeypatch.setattr("models.registry.ZOO", zoo)
    monkeypatch.setattr("models.registry.ZOO_KEY", tmp_path / "publisher.pub")
    again = open_registry(settings, registry.catalogue)
    assert again.row("brain-structures").version == shipped.version
    assert again.row("brain-structures@9.0.0").state == "installed"


def test_installing_changes_nothing_until_a_person_promotes(
    registry: Registry, shipped: Package, tmp_path: Path
) -> None:
    row, new = registry.install(version_of(shipped, tmp_path, "9.10.0"), inspect)
    assert (new, row.state) == (True, "installed")
    assert registry.row("brain-structures").version == shipped.version
    with pytest.raises(Missing, match="is installed; a route runs"):
        registry.routed("brain-structures@9.10.0")
    promote(registry, "brain-structures@9.10.0")
    assert registry.package("brain-structures").version == "9.10.0"
    assert registry.row(f"brain-structures@{shipped.version}").state == "retired"
    assert [one.version for one in registry.versions(shipped.id)] == [shipped.version, "9.10.0"]
    with registry.catalogue.read() as connection:
        assert packages.before_active(connection, "brain-structures").version == shipped.version


def test_the_same_package_twice_is_one_and_other_bytes_under_its_number_are_refused(
    registry: Registry, shipped: Package, tmp_path: Path
) -> None:
    folder = version_of(shipped, tmp_path, "9.9.0")
    assert registry.install(folder, inspect)[1] is True
    assert registry.install(folder, inspect)[1] is False
    (folder / "card.md").write_text("other")
    sign_package(folder, read_private_key(tmp_path / "publisher.key"))
    with pytest.raises(SettingsError, match="raise its number"):
        registry.install(folder, inspect)
    assert registry.package("brain-structures@9.9.0").path("card.md").read_text() != "other"


def test_a_zip_is_the_same_package(registry: Registry, shipped: Package, tmp_path: Path) -> None:
    folder = version_of(shipped, tmp_path, "9.9.0")
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    row, _ = registry.install(tmp_path / "package.zip", inspect)
    assert registry.package(row.name).digest == row.digest
    assert list((registry.folder / ".staging").iterdir()) == []


def test_an_older_version_needs_to_be_asked_for(registry: Registry, shipped: Package, tmp_path: Path) -> None:
    folder = version_of(shipped, tmp_path, "0.0.1")
    with pytest.raises(PackageRefused, match="--allow-rollback"):
        registry.install(folder, inspect)
    assert registry.install(folder, inspect, allow_rollback=True)[1]


@pytest.mark.parametrize("name", ["hippocampus-of-mars", "brain-structures@8.8.8", "", "zoo"])
def test_what_is_not_there_is_missing_with_what_is(registry: Registry, name: str) -> None:
    with pytest.raises(Missing, match=r"curie models list|here: "):
        registry.package(name)


def test_a_damaged_version_is_refused_and_others_run_on(registry: Registry, shipped: Package, tmp_path: Path) -> None:
    row, _ = registry.install(version_of(shipped, tmp_path, "9.9.0"), inspect)
    card = registry.place(row) / "card.md"
    card.chmod(0o640)
    card.write_text("changed")
    with pytest.raises(PackageRefused, match=r"card\.md"):
        registry.verified(row)
    fresh = Registry(registry.settings, registry.catalogue)
    assert fresh.package("brain-structures").digest == shipped.digest


def test_an_installation_cut_off_before_its_row_is_begun_anew(
    registry: Registry, shipped: Package, tmp_path: Path
) -> None:
    left = registry.folder / "brain-structures" / "9.9.0"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    row, _ = registry.install(version_of(shipped, tmp_path, "9.9.0"), inspect)
    assert not (left / "half").exists()
    assert registry.package(row.name).version == "9.9.0"


@pytest.fixture
def unsigned(shipped: Package, tmp_path: Path) -> Path:
    folder = version_of(shipped, tmp_path, "9.9.0")
    (folder / SIGNATURE).unlink()
    return folder


def test_unsigned_is_refused_unless_allowed_and_then_it_shows(
    registry: Registry, unsigned: Path, tmp_path: Path
) -> None:
    with pytest.raises(PackageRefused, match="unsigned"):
        registry.install(unsigned, inspect)
    lax = parse("[models]\nallow_unsigned = true\n", tmp_path / "curie.toml")
    row, _ = Registry(lax, registry.catalogue).install(unsigned, inspect)
    assert row.signer == ""


def test_nothing_is_parsed_before_the_signature_is_found_right(
    registry: Registry, shipped: Package, tmp_path: Path
) -> None:
    folder = version_of(shipped, tmp_path, "9.9.0")
    (folder / MANIFEST).write_text("this is no JSON and must never be parsed")
    with pytest.raises(PackageRefused, match="is not one of this MANIFEST"):
        registry.install(folder, inspect)


def test_a_shipped_package_that_cannot_be_installed_stops_nothing_else(
    registry: Registry, shipped: Package, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(version_of(shipped, tmp_path, shipped.version), zoo / "a-conflict")  # other bytes, the same number
    shutil.copytree(version_of(shipped, tmp_path, "0.1.0", "newcomer"), zoo / "newcomer")
    monkeypatch.setattr("models.registry.ZOO", zoo)
    monkeypatch.setattr("models.registry.ZOO_KEY", tmp_path / "publisher.pub")
    again = open_registry(settings, registry.catalogue)
    assert again.row("brain-structures").digest == shipped.digest
    assert again.row("newcomer").state == "active"


def test_what_is_checked_is_what_is_kept_whatever_happens_to_the_source_meanwhile(
    registry: Registry, shipped: Package, tmp_path: Path
) -> None:
    folder = version_of(shipped, tmp_path, "9.9.0")
    outside = folder.parent / "canary.txt"
    outside.write_text("written from outside")

    def meanwhile(package: Package) -> None:
        listed = json.loads((folder / MANIFEST).read_bytes())
        listed["files"] = [{"path": "../canary.txt", "size": 1, "sha256": "0" * 64}]
        (folder / MANIFEST).write_text(json.dumps(listed))
        (folder / "card.md").write_text("another card")

    row, _ = registry.install(folder, meanwhile)
    assert registry.verified(row).path("card.md").read_text() == shipped.path("card.md").read_text()
    assert not list(registry.settings.data_dir.rglob("canary.txt"))


def test_nothing_of_a_refused_package_stays(registry: Registry, shipped: Package, tmp_path: Path) -> None:
    folder = version_of(shipped, tmp_path, "9.9.0")

    def refusing(package: Package) -> None:
        raise PackageRefused("no")

    with pytest.raises(PackageRefused, match="no"):
        registry.install(folder, refusing)
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(PackageRefused, match="link: links and devices"):
        registry.install(folder, inspect)
    assert list((registry.folder / ".staging").iterdir()) == []


@pytest.mark.parametrize("name", ["card.md", MANIFEST, SIGNATURE])
def test_installing_a_damaged_version_again_repairs_it(
    registry: Registry, shipped: Package, tmp_path: Path, name: str
) -> None:
    folder = version_of(shipped, tmp_path, "9.9.0")
    row, _ = registry.install(folder, inspect)
    spoil(registry.place(row) / name)
    with pytest.raises(PackageRefused):
        registry.verified(row)
    assert registry.install(folder, inspect)[1] is False
    assert registry.verified(row).digest == row.digest
    assert list((registry.folder / ".staging").iterdir()) == []


def spoil(path: Path) -> None:
    path.chmod(0o640)
    path.write_text("damaged")


def test_a_damaged_package_that_ships_is_repaired_at_the_next_start(registry: Registry) -> None:
    row = registry.row("brain-structures")
    spoil(registry.place(row) / "card.md")
    _loaded.cache_clear()  # as in a new process
    again = open_registry(registry.settings, registry.catalogue)
    assert again.verified(row).digest == row.digest
    assert again.row("brain-structures").state == "active"


def test_a_locator_that_is_not_here_is_not_missed_before_a_study_needs_it(registry: Registry, shipped: Package) -> None:
    from models.inputs import Locator

    plan = {
        "package": shipped.name, "segments": [1], "min_volume_ml": 1.0, "above_extent_mm": 10.0,
        "regions": [{"name": "left", "low": [0, 0, 0], "high": [1, 1, 1]}],
    }  # fmt: skip
    for name, found in ((plan["package"], shipped.digest), ("elsewhere@1.0.0", None)):
        locator = Locator.model_validate(plan | {"package": name})
        located = replace(shipped, manifest=shipped.manifest.model_copy(update={"locator": locator}))
        there = registry.locator(located)
        assert (there.digest if there else None) == found
    assert registry.locator(shipped) is None

"""What promote and rollback look at before they change anything, with real packages in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import event

from appliance.catalogue import packages, promotions
from appliance.catalogue.connection import now
from appliance.cli import model_life
from appliance.cli.model_life import _target
from appliance.errors import Missing, PackageRefused, SettingsError
from models.gate import inspect
from models.package import Package
from models.registry import Registry, _loaded
from tests.models.conftest import shipped
from tests.models.test_registry import promote, registry, settings, version_of

__all__ = ["registry", "settings", "shipped"]


def decide(registry: Registry, kind: str, name: str) -> str:
    """Decide as the command does; returns the version that is active then."""
    row = _target(kind, name, registry)
    with registry.catalogue.write() as connection:
        promotions.decide(connection, kind, row, "A", "why", now(), two_persons=False)
    return registry.row("brain-structures").version


def test_a_version_that_never_passed_the_gate_is_not_promoted_by_way_of_retired(
    registry: Registry, shipped: Package, tmp_path: Path
) -> None:
    row, _ = registry.install(version_of(shipped, tmp_path, "9.9.0"), inspect)
    with registry.catalogue.write() as connection:
        packages.set_state(connection, row, "retired", now())
    with pytest.raises(SettingsError, match="never passed the gate here"):
        decide(registry, "promote", row.name)
    assert registry.row("brain-structures").version == shipped.version


def test_rollbacks_go_back_one_promote_each_and_stop(registry: Registry, shipped: Package, tmp_path: Path) -> None:
    for number in ("9.1.0", "9.2.0"):
        registry.install(version_of(shipped, tmp_path, number), inspect)
        promote(registry, f"brain-structures@{number}")
    assert decide(registry, "rollback", "brain-structures") == "9.1.0"
    assert decide(registry, "rollback", "brain-structures") == shipped.version
    with pytest.raises(Missing, match=r"no version of .* to go back to: none was active before"):
        decide(registry, "rollback", "brain-structures")
    assert decide(registry, "rollback", "brain-structures@9.2.0") == "9.2.0"


def test_a_damaged_version_is_refused_at_rollback_and_the_active_one_stays(
    registry: Registry, shipped: Package, tmp_path: Path
) -> None:
    for number in ("9.1.0", "9.2.0"):
        registry.install(version_of(shipped, tmp_path, number), inspect)
        promote(registry, f"brain-structures@{number}")
    damaged = registry.place(registry.row("brain-structures@9.1.0")) / "model.onnx"
    damaged.chmod(0o640)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    _loaded.cache_clear()  # as in the command's own process
    with pytest.raises(PackageRefused, match=r"model\.onnx"):
        decide(registry, "rollback", "brain-structures")
    assert registry.row("brain-structures").version == "9.2.0"


def test_no_file_is_read_while_the_catalogue_is_locked(
    registry: Registry, shipped: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.install(version_of(shipped, tmp_path, "9.1.0"), inspect)
    promote(registry, "brain-structures@9.1.0")
    locked: list[str] = []
    statements: list[str] = []
    event.listen(registry.catalogue.engine, "before_cursor_execute", lambda *got: statements.append(got[2]))
    load = Registry.load

    def looked_at(self: Registry, row: object) -> Package:
        locked.extend(one for one in statements if "IMMEDIATE" in one)
        return load(self, row)  # type: ignore[arg-type]

    monkeypatch.setattr(Registry, "load", looked_at)
    monkeypatch.setattr(model_life, "registry", lambda config: _Open(registry))
    model_life._change("rollback", "brain-structures", "A", "why", json=True, config=None)
    assert locked == []
    assert registry.row("brain-structures").version == shipped.version


def test_a_version_that_changes_while_its_files_are_read_is_not_promoted(
    registry: Registry, shipped: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.install(version_of(shipped, tmp_path, "9.1.0"), inspect)
    promote(registry, "brain-structures@9.1.0")
    target = model_life._target

    def slow(kind: str, name: str, opened: Registry) -> object:
        row = target(kind, name, opened)
        with registry.catalogue.write() as connection:
            packages.set_state(connection, row, "installed", now())
        return row

    monkeypatch.setattr(model_life, "_target", slow)
    monkeypatch.setattr(model_life, "registry", lambda config: _Open(registry))
    with pytest.raises(SettingsError, match="changed by somebody else"):
        model_life._change("rollback", "brain-structures", "A", "why", json=True, config=None)


class _Open:
    """An opened registry, as the commands get it."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def __enter__(self) -> Registry:
        return self.registry

    def __exit__(self, *raised: object) -> None:
        pass

"""The page of models: what it shows of a version, and what an administrator may change; real packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.catalogue import comparisons, packages
from appliance.catalogue.comparisons import Answer, Pair
from appliance.catalogue.connection import now
from models.gate import inspect
from models.package import Package
from models.registry import Registry
from tests.appliance.catalogue.rows import queued_job
from tests.appliance.console.conftest import Enter
from tests.appliance.console.visits import on_record, said, send
from tests.models.conftest import shipped
from tests.models.test_registry import promote, registry, settings, version_of

__all__ = ["registry", "settings", "shipped"]


@pytest.fixture
def two_versions(registry: Registry, shipped: Package, tmp_path: Path) -> Registry:
    """The version that ships and a later one, which is active."""
    registry.install(version_of(shipped, tmp_path, "9.1.0"), inspect)
    promote(registry, "brain-structures@9.1.0")
    return registry


def active(registry: Registry) -> str:
    return registry.row("brain-structures").version


def test_versions_their_places_and_engines_are_shown(enter: Enter, two_versions: Registry) -> None:
    row = two_versions.row("brain-structures")
    parity = [{"case": "case-1", "largest_of_range": 3e-5, "flips": 1e-6, "probability": None}]
    with two_versions.catalogue.write() as connection:
        report = {"host": "h", "device": "cpu", "package_digest": row.digest, "engine": "openvino", "precision": "f32",
                  "skipped": [["tensorrt", "needs a GPU"]], "parity": parity, "memory_mb": 378.0}  # fmt: skip
        packages.keep_engine_report(connection, report, now())
    shown = said(enter().get("/models"))
    assert "9.1.0 ✓ active" in shown
    assert "○ retired" in shown
    assert "openvino f32 on h (cpu), 378 MB" in shown
    assert "3.0e-05 of the range, 1.0e-06 flips (case-1)" in shown
    assert "tensorrt: needs a GPU" in shown
    assert "Go back to the version before" not in shown


def test_a_version_in_shadow_is_held_against_the_active_one(
    enter: Enter, two_versions: Registry, shipped: Package, tmp_path: Path
) -> None:
    two_versions.install(version_of(shipped, tmp_path, "9.2.0"), inspect)
    for state in ("candidate", "shadow"):
        row = two_versions.row("brain-structures@9.2.0")
        with two_versions.catalogue.write() as connection:
            packages.set_state(connection, row, state, now())
    assert "No study has been read by both so far." in said(enter().get("/models"))
    first, second = (queued_job(two_versions.catalogue, study) for study in ("1.1", "1.2"))
    pair = Pair(
        Answer(first, "brain-structures", "9.1.0", False, [], None),
        Answer(second, "brain-structures", "9.2.0", True, [], None),
        "Phantom Works",
    )
    figures = {
        "present": {"CSF": [True, True]},
        "dice": {"CSF": 0.875},
        "differences": {"CSF": {"Volume": [1.0, 3.0, "ml"]}},
    }
    with two_versions.catalogue.write() as connection:
        comparisons.keep(connection, pair, figures, now())
    shown = said(enter().get("/models"))
    assert "9.2.0 (shadow) beside 9.1.0" in shown
    assert "Phantom Works CSF 1 0.875 0.875 0 Volume +2 (+2) ml" in shown


def test_an_administrator_goes_back_with_name_and_reason(
    enter: Enter, two_versions: Registry, shipped: Package
) -> None:
    client = enter("administrator")
    assert "Go back to the version before" in said(client.get("/models"))
    without = send(client, "/models/change", kind="rollback", version="brain-structures", reason=" ")
    assert without.status_code == 409
    assert active(two_versions) == "9.1.0"
    done = send(client, "/models/change", kind="rollback", version="brain-structures", reason="worse on scanner 2")
    assert done.status_code == 303
    assert active(two_versions) == shipped.version
    with two_versions.catalogue.read() as connection:
        change = packages.changes(connection, "brain-structures")[0]
    assert (change.kind, change.person, change.reason) == ("rollback", "administrator-anna", "worse on scanner 2")
    assert ("version_rolled_back", "administrator-anna", "") in on_record(two_versions.catalogue)


def test_nobody_else_changes_a_model(enter: Enter, two_versions: Registry) -> None:
    for role in ("viewer", "operator"):
        answer = send(enter(role), "/models/change", kind="rollback", version="brain-structures", reason="why")
        assert answer.status_code == 403
        assert "Change brain-structures" not in said(enter(role).get("/models"))
    assert active(two_versions) == "9.1.0"


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("promote", "brain-structures@7.7.7"),
        ("promote", "../x@1.0.0"),
        ("unshadow", "brain-structures@9.1.0"),
        ("made-up", "x"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    enter: Enter, two_versions: Registry, kind: str, version: str
) -> None:
    answer = send(enter("administrator"), "/models/change", kind=kind, version=version, reason="why")
    assert answer.status_code in (404, 409)
    assert active(two_versions) == "9.1.0"
    assert on_record(two_versions.catalogue) == []


@pytest.fixture
def of_two_persons(two_versions: Registry) -> Registry:
    """The same, where two persons have to ask."""
    models = two_versions.settings.models.model_copy(update={"two_person_promotion": True})
    return Registry(two_versions.settings.model_copy(update={"models": models}), two_versions.catalogue)


def test_where_two_persons_are_asked_for_the_same_one_is_not_enough(enter: Enter, of_two_persons: Registry) -> None:
    client = enter("administrator", change=of_two_persons.settings)
    for expected in (303, 409):
        answer = send(client, "/models/change", kind="rollback", version="brain-structures", reason="why")
        assert answer.status_code == expected
    assert active(of_two_persons) == "9.1.0"
    assert "A second administrator has to ask for the same." in said(client.get("/models"))
    assert [kind for kind, *_ in on_record(of_two_persons.catalogue)] == ["version_change_asked"]

"""A candidate's way at a site: refused, worse, in shadow, ready, promoted, taken back. The packages are real."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from appliance.catalogue import Catalogue, open_catalogue, packages, trials
from appliance.catalogue.connection import now
from appliance.catalogue.promotions import decide
from appliance.errors import PackageRefused
from appliance.package_life import VersionRow
from appliance.settings import Settings, load
from appliance.trial import ALL, Reads, Shadowed
from bench.blocks import blocks
from models.declaration import Declaration
from models.local_pass import Plan, case_of, trained
from models.package import sign_package, write_manifest
from models.registry import Registry
from models.signing import make_key, read_private_key
from tests.acceptance.tiny import ROI, declared, keep_cases, tiny_network, write_tiny
from workers.coordinator.publish import pack
from workers.sidecar import trial_run
from workers.sidecar.telling import told_of
from workers.sidecar.trials import Trials, policy_of

Network = Callable[[], nn.Module]
SETTINGS = """
[models]
trusted_keys = ["key.pub"]
[worker]
backends = ["torch"]
[federation]
coordinator = "grpcs://localhost:1"
kit = "kit"
packages = ["tiny"]
shadow_studies = 2
shadow_days = 3
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    make_key(tmp_path / "key")
    (tmp_path / "curie.toml").write_text(SETTINGS)
    monkeypatch.setenv("CURIE_CONFIG", str(tmp_path / "curie.toml"))
    return load(tmp_path / "curie.toml")


@pytest.fixture
def site(settings: Settings) -> Iterator[Catalogue]:
    opened = open_catalogue(settings.catalogue_url, settings.data_dir)
    yield opened
    opened.close()


@cache
def learned() -> nn.Module:
    """Return a network that finds the blocks."""
    one = tiny_network()
    how = Declaration.model_validate(declared())
    cases = [case_of(volume, labels, how, name) for name, volume, labels in blocks("abcdef", 3)]
    trained(one, cases, Plan(steps=60, crop=ROI, learning_rate=2e-2), "cpu")
    return one


def forgetful() -> nn.Module:
    """Return a network that says the same of every voxel."""
    one = tiny_network()
    for weight in one.parameters():
        weight.data.zero_()
    return one


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Network], Path]:
    """A package of each network, exported once."""
    return cache(lambda make: write_tiny(tmp_path_factory.mktemp("tiny") / make.__name__, make()))


@pytest.fixture
def package(written: Callable[[Network], Path]) -> Callable[..., Path]:
    """Writes and signs a version of `tiny`."""

    def write(folder: Path, key: Path, version: str, lineage: dict[str, Any], make: Network) -> Path:
        shutil.copytree(written(make), folder)
        (folder / "package.json").write_text(json.dumps(declared(version) | {"lineage": lineage}))
        write_manifest(folder)
        sign_package(folder, read_private_key(key))
        return folder

    return write


@pytest.fixture
def active(settings: Settings, site: Catalogue, tmp_path: Path, package: Callable[..., Path]) -> VersionRow:
    """Version 0.1.0, active at the site; it finds the blocks."""
    registry = Registry(settings, site)
    row, _ = registry.install(package(tmp_path / "v1", tmp_path / "key", "0.1.0", {}, learned), lambda _: None)
    with site.write() as connection:
        packages.set_state(connection, row, "candidate", now())
        decide(connection, "promote", replace(row, state="candidate"), "A", "first", now(), two_persons=False)
    return registry.row("tiny@0.1.0")


@pytest.fixture
def candidate(tmp_path: Path, active: VersionRow, package: Callable[..., Path]) -> Callable[..., Path]:
    """Writes the .zip of a candidate."""

    def write(version: str = "0.1.1", make: Network = learned, key: str = "key", **lineage: Any) -> Path:
        told = {"parent": active.name, "parent_digest": active.digest, "round": 2, "sites": 4} | lineage
        folder = package(tmp_path / f"v-{version}", tmp_path / key, version, told, make)
        pack(folder)
        return folder.with_name(f"{folder.name}.zip")

    return write


def arrive(settings: Settings, file: Path) -> Path:
    place = settings.data_dir / "sidecar" / "arrived" / file.name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(file.read_bytes())
    return place


def test_a_candidate_is_tried_in_a_process_of_its_own_and_goes_into_shadow(
    settings: Settings, site: Catalogue, candidate: Callable[..., Path], tmp_path: Path
) -> None:
    keep_cases(settings, 20, 5)
    place = arrive(settings, candidate())
    Trials(settings, site).step()
    with site.read() as connection:
        (row,) = trials.of_package(connection, "tiny")
    assert (row.version, row.state) == ("0.1.1", "shadow"), row.reason
    assert row.reason == "in shadow: 0 of 2 studies, 0.0 of 3 days"
    assert {one["structure"] for one in row.scores} == {"Anterior hippocampus", "Posterior hippocampus"}
    assert Registry(settings, site).row("tiny@0.1.1").state == "shadow"
    assert not place.exists()
    assert settings.federation is not None
    (told,) = told_of(settings, settings.federation)["candidates"]
    assert (told["version"], told["state"], len(told["scores"])) == ("0.1.1", "shadow", len(row.scores))
    arrive(settings, tmp_path / "v-0.1.1.zip")
    Trials(settings, site).step()  # the same again changes nothing
    with site.read() as connection:
        assert len(trials.of_package(connection)) == 1


@pytest.mark.parametrize(
    ("lineage", "words"),
    [
        ({"round": None}, "names no round"),
        ({"parent_digest": "0" * 64}, "was never installed here"),
    ],
)
def test_a_candidate_of_unknown_descent_is_refused(
    settings: Settings,
    site: Catalogue,
    candidate: Callable[..., Path],
    tmp_path: Path,
    lineage: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(PackageRefused, match=words):
        trial_run.tried(candidate(**lineage), settings, site)
    assert [row.version for row in Registry(settings, site).versions("tiny")] == ["0.1.0"]


def test_a_candidate_of_a_stranger_is_refused(
    settings: Settings, site: Catalogue, candidate: Callable[..., Path], tmp_path: Path
) -> None:
    make_key(tmp_path / "other")
    with pytest.raises(PackageRefused, match="trusted_keys does not name"):
        trial_run.tried(candidate(key="other"), settings, site)


def test_a_worse_candidate_retires_with_the_report(
    settings: Settings, site: Catalogue, candidate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_cases(settings, 20, 5)
    monkeypatch.setattr(trial_run, "put_through", lambda registry, row: None)
    zipped = candidate(make=forgetful)
    outcome = trial_run.tried(zipped, settings, site)
    assert outcome["state"] == "worse"
    assert "at most 0.01 may be lost" in outcome["reason"]
    assert outcome["scores"]
    assert Registry(settings, site).row("tiny@0.1.1").state == "retired"


def test_without_held_back_cases_nobody_judges_but_a_person(
    settings: Settings, site: Catalogue, candidate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_run, "put_through", lambda registry, row: None)
    outcome = trial_run.tried(candidate(), settings, site)
    assert outcome["state"] == "unjudged"
    assert "a person decides" in outcome["reason"]
    assert Registry(settings, site).row("tiny@0.1.1").state == "installed"


def in_shadow(settings: Settings, site: Catalogue, zipped: Path, scores: Sequence[object] = ()) -> None:
    """Put version 0.1.1 into shadow, as a trial leaves it."""
    registry = Registry(settings, site)
    registry.install(zipped, lambda _: None)
    with site.write() as connection:
        packages.set_state(connection, registry.row("tiny@0.1.1"), "candidate", now())
    with site.write() as connection:
        packages.set_state(connection, registry.row("tiny@0.1.1"), "shadow", now())
        told = {"package": "tiny", "version": "0.1.1", "state": "shadow", "reason": "no worse", "scores": list(scores)}
        trials.keep(connection, told | {"sha256": "f" * 64}, now())


def state(site: Catalogue) -> tuple[str, str]:
    with site.read() as connection:
        (row,) = trials.of_package(connection, "tiny")
    return row.state, row.reason


def test_a_person_promotes_what_was_ready_and_it_falls_back_by_itself(
    settings: Settings, site: Catalogue, candidate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_shadow(settings, site, candidate())
    Trials(settings, site).step()
    assert state(site) == ("shadow", "in shadow: 0 of 2 studies, 0.0 of 3 days")
    seen = Shadowed(now() - timedelta(days=1), 2, 0.95)
    monkeypatch.setattr("workers.sidecar.trials.shadowed", lambda *_: seen)
    Trials(settings, site).step()
    assert state(site)[0] == "ready"
    assert Registry(settings, site).row("tiny@0.1.1").state == "shadow"
    with site.write() as connection:
        row = Registry(settings, site).row("tiny@0.1.1")
        decide(connection, "promote", row, "A", "good in shadow", now(), two_persons=False)
    Trials(settings, site).step()
    assert state(site)[0] == "promoted"
    monkeypatch.setattr("workers.sidecar.trials.reads_of", lambda *_: Reads(40, 20, (), ()))
    Trials(settings, site).step()
    assert state(site)[0] == "fell_back"
    assert "20 of 40 results were corrected" in state(site)[1]
    assert Registry(settings, site).row("tiny@0.1.0").state == "active"
    Trials(settings, site).step()
    assert state(site)[0] == "fell_back"


def test_a_site_may_let_its_policy_promote_and_two_persons_are_not_a_policy(
    settings: Settings, site: Catalogue, candidate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_shadow(settings, site, candidate())
    seen = Shadowed(now() - timedelta(days=1), 2, 0.95)
    monkeypatch.setattr("workers.sidecar.trials.shadowed", lambda *_: seen)
    assert settings.federation is not None
    own = settings.federation.model_copy(update={"auto_promote": True})
    two = settings.models.model_copy(update={"two_person_promotion": True})
    Trials(settings.model_copy(update={"federation": own, "models": two}), site).step()
    assert state(site)[0] == "ready"
    Trials(settings.model_copy(update={"federation": own}), site).step()
    assert state(site)[0] == "promoted"
    with site.read() as connection:
        change = packages.changes(connection, "tiny")[0]
    assert (change.after, change.person) == ("0.1.1", "policy of this site")
    assert policy_of(own).auto_promote


@pytest.mark.parametrize(("active_dice", "becomes"), [(0.55, "ready"), (0.9, "retired")])
def test_how_far_a_candidate_may_differ_in_shadow_depends_on_how_good_the_active_version_is(
    settings: Settings,
    site: Catalogue,
    candidate: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    active_dice: float,
    becomes: str,
) -> None:
    scores = [
        {"scanner": ALL, "active": active_dice},
        {"scanner": ALL, "active": 0.95},
        {"scanner": "A", "active": 0.1},
    ]
    in_shadow(settings, site, candidate(), scores)
    differs = {"present": {"front": (True, True)}, "dice": {"front": 0.5}, "differences": {}}
    monkeypatch.setattr("workers.sidecar.trials.comparisons.between", lambda *_: [differs, differs])
    Trials(settings, site).step()
    assert state(site)[0] == becomes, state(site)


def test_a_newer_candidate_takes_the_older_ones_place(
    settings: Settings, site: Catalogue, candidate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_shadow(settings, site, candidate())
    arrive(settings, candidate("0.1.2"))
    told = {"package": "tiny", "version": "0.1.2", "state": "shadow", "reason": "no worse", "scores": []}
    monkeypatch.setattr(Trials, "_outcome", lambda *_: dict(told))
    Trials(settings, site).step()
    with site.read() as connection:
        found = {row.version: row.state for row in trials.of_package(connection, "tiny")}
    assert found == {"0.1.1": "retired", "0.1.2": "shadow"}

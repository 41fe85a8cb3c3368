"""The trainer without an engine: what it answers with each kind of privacy and precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.settings import Settings, load
from bench.consortium import Party, hospital_settings
from models.federation import Update, from_bytes
from tests.acceptance.tiny import keep_cases, write_tiny
from workers.asking import ask_bytes, read_ask, reason_of
from workers.sidecar import guard
from workers.sidecar.ledger import Entry
from workers.sidecar.places import Places
from workers.sidecar.rehearsal import rehearse
from workers.sidecar.training_run import answer_in


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny package."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


Made = Callable[..., tuple[Settings, Path]]


@pytest.fixture
def hospital(tmp_path: Path, package: Path) -> Made:
    """Return a function that makes a hospital with more settings, and gives these and a request's folder."""

    def made(**more: Any) -> tuple[Settings, Path]:
        text = hospital_settings("one", 8002, "tiny", {"min_new_cases": 1} | more)
        party = Party(tmp_path / "one", text)
        party.install(package)
        settings = load(party.file)
        keep_cases(settings, 8, 2)  # two of them are held back
        folder = tmp_path / "work"
        folder.mkdir()
        (folder / "site").write_text("one")
        (folder / "request.bin").write_bytes(request(package))
        return settings, folder

    return made


def request(folder: Path, **changed: Any) -> bytes:
    from models.package import load_package

    loaded = load_package(folder)
    about = {
        "cycle": "cycle-1", "round": 1, "package": "tiny", "version": "0.1.0", "package_digest": loaded.digest,
        "steps": 3, "batch": 2, "learning_rate": 1e-2, "proximal": 0.01, "clip_norm": 0.5, "seed": 1,
    }  # fmt: skip
    return ask_bytes(from_bytes(loaded.path("weights.safetensors").read_bytes()), about | changed)[0]


def answered(folder: Path, settings: Settings) -> Update:
    answer_in(folder, settings)
    content = (folder / "answer.bin").read_bytes()
    assert reason_of(content) is None, reason_of(content)
    base, ask = read_ask((folder / "request.bin").read_bytes())
    update = guard.passed(content, ask, base, "one")
    assert update is not None
    return update


def test_an_update_is_clipped_and_tells_loss_and_dice(hospital: Made) -> None:
    settings, folder = hospital()
    update = answered(folder, settings)
    assert 0 < update.norm <= 0.5 * 1.01
    assert set(update.metrics) == {"loss", "dice_before", "dice_after"}


def test_int8_keeps_what_it_lost_for_the_next_round(hospital: Made) -> None:
    settings, folder = hospital(wire="int8")
    answered(folder, settings)
    kept = Places(settings.data_dir).kept / "tiny" / "left-behind.safetensors"
    first = from_bytes(kept.read_bytes())
    assert any(one.any() for one in first.values())
    answered(folder, settings)
    assert len((folder / "answer.bin").read_bytes()) < len(request_bytes(folder)) * 0.9


def request_bytes(folder: Path) -> bytes:
    return (folder / "request.bin").read_bytes()


def test_personal_layers_stay_and_say_nothing(hospital: Made) -> None:
    settings, folder = hospital(personal=True)
    update = answered(folder, settings)
    own = from_bytes((Places(settings.data_dir).kept / "tiny" / "own-layers.safetensors").read_bytes())
    assert own
    assert all(not update.deltas[name].any() for name in own if name in update.deltas)
    assert update.norm > 0


@pytest.mark.filterwarnings("ignore:Optimal order")  # the bound holds, it is only not the tightest
def test_private_training_tells_its_cost_alone_and_ends_with_the_budget(hospital: Made) -> None:
    pytest.importorskip("opacus")
    settings, folder = hospital(privacy="dp", noise=2.0, epsilon_budget=8.0)
    update = answered(folder, settings)
    assert set(update.metrics) == {"epsilon"}
    cost = json.loads((folder / "cost.json").read_text())
    assert 0 < cost["epsilon"] <= 8
    spent = Entry("2026-11-22T00:00:00+00:00", "tiny", "cycle-1", 1, "update", 1, "ab", "", 8, 0.5, 1.0, 5000, 8.0)
    Places(settings.data_dir).ledger.add(spent)
    answer_in(folder, settings)
    assert "privacy budget" in (reason_of((folder / "answer.bin").read_bytes()) or "")


def test_a_dry_run_shows_every_tensor_and_byte(hospital: Made) -> None:
    settings, _ = hospital()
    told = rehearse(settings, "tiny@0.1.0")
    assert told["abstains"] is None
    assert {one["type"] for one in told["tensors"]} == {"F16"}
    assert sum(one["bytes"] for one in told["tensors"]) < told["bytes"]
    assert told["beside"]["cases"]

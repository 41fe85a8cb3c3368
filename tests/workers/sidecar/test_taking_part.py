"""How a site answers, without an engine and without training: the trainer is a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.catalogue import events, open_catalogue
from appliance.catalogue.connection import now
from appliance.settings import load
from bench.consortium import Party, hospital_settings
from models.federation import Update, encode, from_bytes
from models.package import load_package
from tests.acceptance.tiny import keep_cases, write_tiny
from workers.asking import ask_bytes, read_ask, reason_of
from workers.sidecar.taking_part import Site

NOBODY = lambda: False  # noqa: E731


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny package."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def site(tmp_path: Path, package: Path) -> Iterator[Site]:
    """A site with eight cases, whose trainer answers at once."""
    party = Party(tmp_path / "one", hospital_settings("one", 8002, "tiny", {"min_new_cases": 1}))
    party.install(package)
    settings = load(party.file)
    keep_cases(settings, 8, 1)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    made = Site("one", settings, catalogue)
    made.trainer = Trainer(lambda deltas: deltas)  # type: ignore[assignment]
    yield made
    catalogue.close()


class Trainer:
    """Answers with a small change of every weight, itself changed by a function."""

    def __init__(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.change = change

    def do(self, folder: Path, give_up: Any) -> bool:
        base, ask = read_ask((folder / "request.bin").read_bytes())
        deltas = self.change({name: np.full_like(one, 1e-3) for name, one in base.items()})
        (folder / "answer.bin").write_bytes(encode(Update(ask.question("one"), deltas, 8, {"loss": 1.0})))
        (folder / "cost.json").write_text(json.dumps({"noise": 0.0, "rate": 0.0, "steps": 0, "epsilon": 0.0}))
        return True


def request(folder: Path, **changed: Any) -> bytes:
    loaded = load_package(folder)
    about = {
        "cycle": "cycle-1", "round": 1, "package": "tiny", "version": "0.1.0", "package_digest": loaded.digest,
        "steps": 3, "batch": 2, "learning_rate": 1e-2, "proximal": 0.01, "clip_norm": 0.5, "seed": 1,
    }  # fmt: skip
    return ask_bytes(from_bytes(loaded.path("weights.safetensors").read_bytes()), about | changed)[0]


def outcomes(site: Site) -> list[tuple[str, str]]:
    """Return package and outcome of each answer that is on record."""
    with site.catalogue.read() as connection:
        told = events.details_since(connection, "round_answered", now() - timedelta(hours=1))
    return [(one["package"], one["outcome"]) for one in told]


def test_an_update_stands_in_the_ledger_with_the_digest_of_what_left(site: Site, package: Path) -> None:
    content = site.answer(request(package), NOBODY)
    assert reason_of(content) is None
    (entry,) = site.places.ledger.entries()
    assert (entry.what, entry.bytes, entry.cycle, entry.round) == ("update", len(content), "cycle-1", 1)
    assert outcomes(site) == [("tiny", "took_part")]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"package_digest": "ab" * 32}, "not approved"),
        ({"version": "9.9.9"}, "not approved"),
        ({"package": "hippocampus"}, "not approved"),
    ],
)
def test_only_the_very_package_that_is_approved_here_is_trained(
    site: Site, package: Path, changed: dict[str, Any], why: str
) -> None:
    assert why in (reason_of(site.answer(request(package, **changed), NOBODY)) or "")
    assert [one.what for one in site.places.ledger.entries()] == ["abstention"]


def test_a_paused_site_abstains(site: Site, package: Path) -> None:
    site.places.root.mkdir(parents=True, exist_ok=True)
    site.places.paused.touch()
    assert reason_of(site.answer(request(package), NOBODY)) == "paused here"
    assert outcomes(site) == [("tiny", "abstained")]


def test_bytes_that_are_no_question_are_answered_with_an_abstention(site: Site) -> None:
    assert "not safetensors" in (reason_of(site.answer(b"\x80\x04pickle", NOBODY)) or "")
    assert outcomes(site) == [("", "refused")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda deltas: deltas | {"patient": np.ones(3, np.float32)}, "'patient'"),
        (lambda deltas: {name: one * 1e4 for name, one in deltas.items()}, "norm"),
    ],
)
def test_what_a_trainer_may_not_send_does_not_leave(
    site: Site, package: Path, change: Callable[[dict[str, Any]], dict[str, Any]], why: str
) -> None:
    site.trainer = Trainer(change)  # type: ignore[assignment]
    assert why in (reason_of(site.answer(request(package), NOBODY)) or "")
    assert outcomes(site) == [("tiny", "refused")]


def test_a_package_that_arrives_is_kept_unread(site: Site) -> None:
    receipt = site.take(b"anything at all")
    (kept,) = site.places.arrived.glob("*.zip")
    assert kept.read_bytes() == b"anything at all"
    assert receipt.decode().split()[1] == kept.stem

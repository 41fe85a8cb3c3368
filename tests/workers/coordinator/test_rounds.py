"""Rounds without an engine: sites are functions, and every kind of bad answer is named."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.catalogue import events, open_catalogue
from appliance.catalogue.connection import now
from appliance.errors import RoundRefused
from appliance.federation_settings import Coordinator
from appliance.settings import parse
from models.federation import Update, encode
from workers.asking import Ask, abstention, read_ask
from workers.coordinator.lineage import CycleRecord, Lineage
from workers.coordinator.rounds import Answer, on_record, rate_of, run_cycle

Weights = dict[str, Any]
Site = Callable[[Weights, Ask, str], bytes]


def base() -> Weights:
    random = np.random.default_rng(1)
    return {"a": random.normal(size=(4, 3)).astype(np.float32), "b": random.normal(size=5).astype(np.float32)}


def honest(weights: Weights, ask: Ask, site: str) -> bytes:
    deltas = {name: np.full_like(one, 0.01) for name, one in weights.items()}
    return encode(Update(ask.question(site), deltas, 10, {"loss": 1.0}))


def changed(how: Callable[[Weights], Weights]) -> Site:
    def answer(weights: Weights, ask: Ask, site: str) -> bytes:
        deltas = how({name: np.full_like(one, 0.01) for name, one in weights.items()})
        return encode(Update(ask.question(site), deltas, 10))

    return answer


def nan(deltas: Weights) -> Weights:
    return deltas | {"a": np.full_like(deltas["a"], np.nan)}


def replayed(weights: Weights, ask: Ask, site: str) -> bytes:
    return honest(weights, ask.model_copy(update={"round": ask.round + 7}), site)


def stolen(weights: Weights, ask: Ask, site: str) -> bytes:
    return honest(weights, ask, "one")


BAD: dict[str, tuple[Site, str]] = {
    "nan": (changed(nan), "NaN"),
    "shape": (changed(lambda d: d | {"a": np.zeros((3, 7), np.float32)}), "shape"),
    "lacking": (changed(lambda d: {"a": d["a"]}), "lacks 'b'"),
    "extra": (changed(lambda d: d | {"patients": d["a"]}), "'patients'"),
    "huge": (changed(lambda d: {name: one * 10_000 for name, one in d.items()}), "norm"),
    "replayed": (replayed, "another round"),
    "stolen": (stolen, "another site"),
    "pickled": (lambda weights, ask, site: pickle.dumps({"a": 1}), "not safetensors"),
    "oversized": (lambda weights, ask, site: honest(weights, ask, site) + bytes(200_000), "bytes"),
    "empty": (lambda weights, ask, site: b"", "not safetensors"),
}


class Sites:
    """An Exchange within this process; a site without function is never heard."""

    def __init__(self, sites: dict[str, Site | None]) -> None:
        self.all = sites
        self.deadlines: list[float] = []

    def sites(self) -> list[str]:
        return sorted(self.all)

    def ask(self, request: bytes, sites: list[str], deadline: Callable[[], float]) -> Iterable[Answer]:
        weights, ask = read_ask(request)
        for name in sites:
            answer = self.all[name]
            if answer is not None:
                yield Answer(name, answer(weights, ask, name))
        self.deadlines.append(deadline() - time.monotonic())


def begun(folder: Path, rounds: int = 1) -> tuple[CycleRecord, Lineage]:
    lineage = Lineage(folder, "tiny")
    cycle = CycleRecord("cycle-1", "tiny", "1.0.0", "ab" * 32, rounds, "2026-11-22T00:00:00+00:00")
    lineage.begin(cycle, base())
    return cycle, lineage


def settings(**changed: Any) -> Coordinator:
    return Coordinator(**({"min_sites": 2, "schedule": "", "straggler_s": 5} | changed))


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_update_is_refused_and_named_and_the_round_completes(tmp_path: Path, kind: str) -> None:
    cycle, lineage = begun(tmp_path)
    answer, why = BAD[kind]
    run_cycle(cycle, lineage, Sites({"one": honest, "two": honest, "three": honest, "bad": answer}), settings())
    record = lineage.rounds("cycle-1")[-1]
    assert set(record.sites) == {"one", "two", "three"}
    assert why in record.refused["bad"]
    after = lineage.weights(record)
    assert all(np.isfinite(one).all() for one in after.values())
    assert np.allclose(after["b"] - base()["b"], 0.01, atol=1e-5)


def test_who_abstains_is_named_with_the_reason_and_who_is_silent_as_such(tmp_path: Path) -> None:
    cycle, lineage = begun(tmp_path)
    sits_out: Site = lambda weights, ask, site: abstention("3 new cases, 20 are wanted")  # noqa: E731
    run_cycle(cycle, lineage, Sites({"one": honest, "two": honest, "out": sits_out, "gone": None}), settings())
    record = lineage.rounds("cycle-1")[-1]
    assert record.abstained == {"out": "3 new cases, 20 are wanted"}
    assert record.silent == ("gone",)
    assert not record.refused


def test_each_round_is_on_record_with_what_the_sites_answered(tmp_path: Path) -> None:
    house = parse('[appliance]\ndata_dir = "."\n', tmp_path / "curie.toml")
    sits_out: Site = lambda weights, ask, site: abstention("paused here")  # noqa: E731
    sites = {"one": honest, "two": honest, "out": sits_out, "bad": BAD["nan"][0], "gone": None}
    cycle, lineage = begun(tmp_path, rounds=2)
    with on_record(cycle, house) as held:
        run_cycle(cycle, lineage, Sites(dict(sites)), settings(), held=held)
    with pytest.raises(RoundRefused), on_record(cycle, house) as held:
        run_cycle(*begun(tmp_path / "other"), Sites({"one": honest}), settings(), held=held)
    catalogue = open_catalogue(house.catalogue_url, house.data_dir)
    with catalogue.read() as connection:
        told = events.details_since(connection, "round_held", now() - timedelta(hours=1))
        (refused,) = events.details_since(connection, "round_refused", now() - timedelta(hours=1))
    catalogue.close()
    counts = {"counted": 2, "abstained": 1, "refused": 1, "silent": 1}
    assert [(one["package"], one["round"], one["sites"]) for one in told] == [("tiny", 1, counts), ("tiny", 2, counts)]
    assert refused["package"] == "tiny"


def test_the_quorum_is_of_accepted_updates(tmp_path: Path) -> None:
    cycle, lineage = begun(tmp_path)
    sites = Sites({"one": honest, "bad": BAD["nan"][0], "worse": BAD["pickled"][0]})
    with pytest.raises(RoundRefused, match=r"1 updates count, 2 are needed; bad refused: .*NaN"):
        run_cycle(cycle, lineage, sites, settings())
    assert [one.round for one in lineage.rounds("cycle-1")] == [0]


def test_stragglers_are_waited_for_only_so_long_once_enough_answered(tmp_path: Path) -> None:
    cycle, lineage = begun(tmp_path)
    enough, too_few = Sites({"one": honest, "two": honest, "slow": None}), Sites({"one": honest, "slow": None})
    run_cycle(cycle, lineage, enough, settings(round_timeout_s=900))
    assert 4 < enough.deadlines[0] <= 5
    with pytest.raises(RoundRefused):
        run_cycle(*begun(tmp_path / "other"), too_few, settings(round_timeout_s=900))
    assert 890 < too_few.deadlines[0] <= 900


@pytest.mark.parametrize("aggregation", ["weighted-mean", "momentum", "trimmed-mean"])
def test_a_cycle_goes_on_where_it_stood(tmp_path: Path, aggregation: str) -> None:
    sites = {"one": honest, "two": honest, "three": honest}
    own = settings(aggregation=aggregation)
    cycle, whole = begun(tmp_path / "whole", rounds=3)
    run_cycle(cycle, whole, Sites(dict(sites)), own)
    cycle, torn = begun(tmp_path / "torn", rounds=3)
    with pytest.raises(KeyboardInterrupt):
        run_cycle(cycle, torn, killed_in(2, sites), own)
    assert [one.round for one in torn.rounds("cycle-1")] == [0, 1]
    run_cycle(cycle, torn, Sites(dict(sites)), own)
    for one, other in zip(whole.rounds("cycle-1"), torn.rounds("cycle-1"), strict=True):
        assert one.round == other.round
        mine, theirs = whole.weights(one), torn.weights(other)
        assert all(np.allclose(mine[name], theirs[name], atol=1e-6) for name in mine)


def test_a_job_holds_five_rounds_and_the_next_one_goes_on(tmp_path: Path) -> None:
    cycle, lineage = begun(tmp_path, rounds=6)
    sites = Sites({"one": honest, "two": honest})
    assert not run_cycle(cycle, lineage, sites, settings())
    assert [one.round for one in lineage.rounds("cycle-1")] == [0, 1, 2, 3, 4, 5]
    assert run_cycle(cycle, lineage, sites, settings())
    assert lineage.rounds("cycle-1")[-1].round == 6


def killed_in(number: int, sites: dict[str, Any]) -> Sites:
    def killed(weights: Weights, ask: Ask, site: str) -> bytes:
        if ask.round == number:
            raise KeyboardInterrupt
        return honest(weights, ask, site)

    return Sites(sites | {"three": killed})


def test_the_learning_rate_falls_over_a_cycle(tmp_path: Path) -> None:
    rates = []

    def noting(weights: Weights, ask: Ask, site: str) -> bytes:
        rates.append(ask.learning_rate)
        return honest(weights, ask, site)

    cycle, lineage = begun(tmp_path, rounds=3)
    run_cycle(cycle, lineage, Sites({"one": noting, "two": honest}), settings(learning_rate=0.02))
    assert rates == pytest.approx([0.02, 0.011, 0.002])
    assert rate_of(0.02, 1, 1) == 0.02


def test_the_servers_momentum_is_a_setting(tmp_path: Path) -> None:
    cycle, lineage = begun(tmp_path, rounds=2)
    own = settings(aggregation="momentum", momentum=0.8)
    run_cycle(cycle, lineage, Sites({"one": honest, "two": honest}), own)
    _, first, second = (lineage.weights(one) for one in lineage.rounds("cycle-1"))
    assert second["a"] - first["a"] == pytest.approx(np.full((4, 3), 0.018), abs=1e-4)  # 0.01 + 0.8 * 0.01

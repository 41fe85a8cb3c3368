"""The page of federated learning: rounds, a candidate's way, what left and what it cost; of both sides."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.catalogue import Catalogue, processes, trials
from appliance.catalogue.connection import now
from appliance.settings import Settings, parse
from tests.appliance.console.conftest import SETTINGS, Enter
from tests.appliance.console.visits import said
from workers.coordinator.lineage import CycleRecord, Lineage, RoundRecord
from workers.sidecar.ledger import Entry
from workers.sidecar.places import Places

BOTH = """
[federation]
coordinator = "grpcs://fl.example:8002"
kit = "kit"
packages = ["hippocampus"]
epsilon_budget = 8.0
privacy = "dp"
[coordinator]
packages = ["hippocampus"]
"""
SCORE = {"structure": "anterior", "scanner": "Phantom Works", "cases": 5, "active": 0.81, "candidate": 0.86}


@pytest.fixture
def federated(settings: Settings) -> Settings:
    """An appliance that is a site and the coordinator, with a ledger and two rounds."""
    found = parse(SETTINGS.format(port=settings.receiver.port) + BOTH, settings.data_dir / "curie.toml")
    sent = Entry("2026-01-02T03:04:05+00:00", "hippocampus", "cycle-1", 1, "update", 1234, "ab", epsilon=6.9)
    Places(found.data_dir).ledger.add(sent)
    lineage, weights = Lineage(found.data_dir, "hippocampus"), {"w": np.zeros(2, np.float32)}
    started = "2026-01-02T03:00:00+00:00"
    lineage.begin(CycleRecord("cycle-1", "hippocampus", "0.2.0", "d", 2, started, candidate="0.3.0"), weights)
    counted = {"north": {"cases": 12}, "south": {"cases": 7}}
    reasons = {"refused": {"east": "the norm is out of bounds"}, "abstained": {"west": "no new cases"}}
    lineage.add(
        weights, RoundRecord("cycle-1", 1, "a", "b", counted, silent=("far",), epsilon={"north": 1.5}, **reasons)
    )
    return found


def keep(catalogue: Catalogue, state: str, reason: str) -> None:
    with catalogue.write() as connection:
        found = {"package": "hippocampus", "version": "0.3.0", "state": state, "reason": reason, "scores": [SCORE]}
        trials.keep(connection, {"sha256": state, **found}, now())


def test_an_appliance_without_federation_says_so(enter: Enter) -> None:
    assert "takes part in no federated learning" in said(enter().get("/federation"))


def test_rounds_say_who_counted_and_who_did_not_and_why(enter: Enter, federated: Settings) -> None:
    shown = said(enter(change=federated).get("/federation"))
    assert "north (12), south (7)" in shown
    for expected in ("east: the norm is out of bounds", "west: no new cases", "far", "north 1.50", "It made 0.3.0"):
        assert expected in shown


def test_what_left_and_what_it_cost_is_shown(enter: Enter, federated: Settings, catalogue: Catalogue) -> None:
    client = enter(change=federated)
    answer = client.get("/federation")
    shown = said(answer)
    assert "hippocampus 0 6.90 ε of hippocampus: 6.90 of 8" in shown
    assert 'class="meter alarming"' in answer.text
    assert "cycle-1 1 update 1234 6.90" in shown
    assert "the sidecar is not running" in shown
    with catalogue.write() as connection:
        processes.beat(connection, "sidecar", now())
    assert "takes part when its policy allows" in said(client.get("/federation"))


@pytest.mark.parametrize(
    ("state", "way"),
    [("shadow", "● shadow"), ("ready", "● ready"), ("promoted", "● promoted"), ("worse", "○ shadow not reached")],
)
def test_a_candidate_s_way_is_shown_with_its_figures(
    enter: Enter, federated: Settings, catalogue: Catalogue, state: str, way: str
) -> None:
    keep(catalogue, state, "it is so & so")
    shown = said(enter(change=federated).get("/federation"))
    assert way in shown
    assert "it is so & so" in shown
    assert "anterior Phantom Works 5 0.81 0.86" in shown

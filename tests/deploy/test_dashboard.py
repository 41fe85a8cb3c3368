"""Alert rules and dashboard ask only for what `/metrics` tells, by its name and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from appliance.alarms import PATIENCE
from appliance.catalogue import Catalogue, packages
from appliance.catalogue.connection import now
from appliance.metrics import Metrics
from appliance.package_life import VersionRow
from appliance.settings import load
from tests.deploy.tools import DEPLOY, succeeds, tool

yaml = pytest.importorskip("yaml")
RULES = DEPLOY / "prometheus" / "alerts.yml"


def asked() -> Iterator[str]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads((DEPLOY / "grafana" / "curie.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def told(registry: CollectorRegistry) -> set[str]:
    """Return every name of a sample that there may be."""
    found = set()
    for names in registry._collector_to_names.values():
        found |= set(names)
    return found


@pytest.fixture
def metrics(catalogue: Catalogue, tmp_path: Path) -> Metrics:
    route = '[[routes]]\nname = "brain"\npackage = "brain-structures@1.0.0"\n'
    (tmp_path / "curie.toml").write_text(f'[appliance]\ndata_dir = "{tmp_path}"\n{route}')
    with catalogue.write() as connection:
        packages.add(connection, VersionRow("lung-nodule", "1.0.0", "d", "", "active", now(), now()))
    return Metrics(load(tmp_path / "curie.toml"), catalogue)


@pytest.mark.parametrize("expression", sorted(set(asked())))
def test_what_is_asked_for_is_told(expression: str, metrics: Metrics) -> None:
    names = set(re.findall(r"curie_[a-z0-9_]+", expression))
    assert names or expression.startswith("up{")
    assert names <= told(metrics.registry)


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"], rule
            assert rule["annotations"]["action"], rule


@pytest.mark.parametrize(("metric", "step"), [("curie_queue_age", "queued"), ("curie_outbox_age", "delivering")])
def test_a_rule_is_as_patient_as_the_appliance_itself(metric: str, step: str) -> None:
    (expression,) = (one for one in asked() if one.startswith(f"{metric}_seconds >"))
    assert float(expression.split(">")[1]) == PATIENCE[step].total_seconds()


def test_the_rules_are_rules() -> None:
    assert "12 rules found" in succeeds(tool("promtool"), "check", "rules", RULES)


def test_the_first_of_a_rare_event_is_told(metrics: Metrics) -> None:
    """increase() of a counter that appears with its first event is 0: each stands there from the start."""
    kinds = {kind for one in asked() for kind in re.findall(r'increase\(curie_events_total{kind="(\w+)"}', one)}
    assert len(kinds) == 4
    told = metrics.exposition().decode()
    for kind in kinds:
        assert f'curie_events_total{{kind="{kind}"}} 0.0' in told
    for package in ("brain-structures", "lung-nodule"):  # of a route, and of none
        assert f'curie_jobs_ended_total{{outcome="failed",package="{package}"}} 0.0' in told


def test_the_rules_fire_when_they_should() -> None:
    succeeds(tool("promtool"), "test", "rules", Path(__file__).parent / "alerts.test.yml")

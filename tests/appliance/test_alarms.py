"""Everything that calls for a person is said once when it comes and once when it goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from appliance.alarms import Facts, alarms, change
from appliance.catalogue.connection import now
from appliance.objective import Answered

WELL = Facts([{"name": "receiver", "host": "h", "healthy": True}], 50.0, 5.0, 3.0, {"pacs": 10.0})
LATE = Answered("brain", 40, 20.0, 700.0, 600.0, {"wait_s": 0.9, "inference_s": 0.1})


def test_nothing_is_said_of_a_house_that_is_well() -> None:
    assert alarms(WELL) == {}
    assert alarms(replace(WELL, answers=(replace(LATE, p95_s=500.0), replace(LATE, objective_s=None)))) == {}


@pytest.mark.parametrize(
    ("changed", "name", "words"),
    [
        ({"processes": [{"name": "worker-1", "host": "h", "healthy": False}]}, "process worker-1 on h", "not beat"),
        ({"free_gb": 9.0}, "disk", "9.0 GiB are free"),
        ({"queued_s": 3600.0}, "queue", "60 minutes"),
        ({"waiting_s": {"pacs": 4000.0}}, "destination pacs", "curie destinations test pacs"),
        ({"rejected": {"pacs": 2}}, "rejected by pacs", "2 results"),
        ({"failed": 3}, "failed jobs", "3 in the last hour"),
        ({"fell_back": ("a@1.0.1",)}, "model a@1.0.1", "fell back"),
        ({"answers": (LATE,)}, "route brain", "12 minutes, 10 minutes are promised; most of it is wait (90%)"),
        ({"checks": {"certificate": "2 days left"}}, "check certificate", "2 days"),
    ],
)
def test_each_trouble_has_a_name_and_a_sentence(changed: dict[str, Any], name: str, words: str) -> None:
    found = alarms(replace(WELL, **changed))
    assert list(found) == [name]
    assert words in found[name]


def test_only_what_changed_is_told() -> None:
    found = {"disk": "a", "queue": "b"}
    first = change([], found, now())
    assert first is not None
    assert first.raised == found
    assert change(sorted(found), {"disk": "other words", "queue": "b"}, now()) is None
    second = change(sorted(found), {"queue": "b"}, now())
    assert second is not None
    assert (second.raised, list(second.cleared)) == ({}, ["disk"])

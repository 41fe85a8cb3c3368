from __future__ import annotations

from dataclasses import replace
from datetime import time

import pytest

from workers.sidecar.policy import Situation, reason_to_abstain, within

READY = Situation("tiny@1.0.0", time(22), "19:00-06:00", False, True, 0, 20, 20, 7.9, 8.0, True)


def test_a_site_that_is_ready_takes_part() -> None:
    assert reason_to_abstain(READY) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"paused": True}, "paused"),
        ({"approved": False}, "not approved"),
        ({"clock": time(12)}, "hours"),
        ({"clinical": 1}, "clinical work"),
        ({"new_cases": 19}, "19 new cases, 20 are wanted"),
        ({"epsilon_spent": 8.0}, "privacy budget"),
    ],
)
def test_every_reason_to_sit_out(changed: dict[str, object], reason: str) -> None:
    assert reason in (reason_to_abstain(replace(READY, **changed)) or "")  # type: ignore[arg-type]


def test_the_budget_counts_only_where_noise_is_added() -> None:
    assert reason_to_abstain(replace(READY, epsilon_spent=9.0, private=False)) is None


@pytest.mark.parametrize(
    ("clock", "hours", "inside"),
    [
        ("19:00", "19:00-06:00", True),
        ("05:59", "19:00-06:00", True),
        ("06:00", "19:00-06:00", False),
        ("12:00", "09:00-17:00", True),
        ("17:00", "09:00-17:00", False),
        ("12:00", "00:00-00:00", True),
    ],
)
def test_hours_may_pass_midnight(clock: str, hours: str, inside: bool) -> None:
    assert within(time.fromisoformat(clock), hours) is inside

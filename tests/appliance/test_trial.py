"""What a candidate has earned, and when a promoted one falls back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from appliance.trial import Reads, Shadowed, TrialPolicy, after_shadow, drift, reason_to_fall_back

NOW = datetime(2026, 11, 22, tzinfo=UTC)
POLICY = TrialPolicy(shadow_studies=5, shadow_days=3)


def seen(studies: int, days: float, dice: float | None = 0.9) -> Shadowed:
    return Shadowed(NOW - timedelta(days=days), studies, dice)


@pytest.mark.parametrize(
    ("shadowed", "kind"),
    [
        (seen(0, 0.5), "wait"),
        (seen(4, 1), "wait"),
        (seen(0, 30, None), "wait"),  # time alone shows nothing
        (seen(5, 0.1), "ready"),
        (seen(1, 3), "ready"),
        (seen(5, 0.1, None), "ready"),
        (seen(5, 0.1, 0.5), "retire"),
    ],
)
def test_studies_or_days_end_the_shadow(shadowed: Shadowed, kind: str) -> None:
    assert after_shadow(shadowed, POLICY, NOW).kind == kind


def test_only_a_sites_own_policy_promotes_without_a_person() -> None:
    step = after_shadow(seen(6, 1), replace(POLICY, auto_promote=True), NOW)
    assert (step.kind, step.reason) == ("promote", "no worse on held-back cases, 6 studies in shadow")
    assert after_shadow(seen(6, 1, 0.2), replace(POLICY, auto_promote=True), NOW).kind == "retire"


def reads(results: int = 40, corrected: int = 0, moved: float = 0.0) -> Reads:
    before = [("Brain Volume", 100.0 + n % 5) for n in range(20)]
    return Reads(results, corrected, before, [(name, value + moved) for name, value in before])


def test_many_corrections_bring_the_version_before_back() -> None:
    assert reason_to_fall_back(reads(), POLICY) == ""
    assert "13 of 40 results were corrected (32%, limit 30%)" in reason_to_fall_back(reads(corrected=13), POLICY)
    assert reason_to_fall_back(reads(results=19, corrected=19), POLICY) == ""  # too few to say


def test_a_measurement_that_drifts_brings_it_back() -> None:
    assert reason_to_fall_back(reads(moved=1.0), POLICY) == ""
    assert reason_to_fall_back(reads(moved=-9.0), POLICY).startswith("Brain Volume moved by -6.4 standard deviations")


def test_drift_needs_enough_on_both_sides() -> None:
    assert drift([1.0, 2.0], [9.0] * 20) is None
    assert drift([1.0] * 20, [9.0] * 20) is None
    assert drift([1.0, 3.0] * 10, [4.0] * 20) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("agrees", "active", "kind"),
    [(0.65, None, "retire"), (0.65, 0.95, "retire"), (0.65, 0.7, "ready"), (0.55, 0.7, "retire"), (0.0, 0.05, "ready")],
)
def test_who_is_right_need_not_agree_with_a_version_that_is_poor_itself(
    agrees: float, active: float | None, kind: str
) -> None:
    assert after_shadow(replace(seen(6, 1, agrees), active_dice=active), POLICY, NOW).kind == kind

"""How long answers take is said of the whole way, and a promise is broken only by enough studies."""

from __future__ import annotations

import pytest

from appliance.objective import STEPS, answered


def took(seconds: float, commitment: float = 0.0) -> dict[str, float]:
    return {"wait_s": seconds / 4, "inference_s": seconds * 3 / 4, "total_s": seconds, "commitment_s": commitment}


def test_the_whole_way_goes_to_the_commitment_and_is_shared_among_its_steps() -> None:
    told = answered("brain", [took(10.0, 2.0)] * 3, None)
    assert told is not None
    assert (told.studies, told.p50_s, told.p95_s, told.breached) == (3, 12.0, 12.0, False)
    assert set(told.shares) == set(STEPS)
    assert sum(told.shares.values()) == pytest.approx(1.0, abs=0.001)
    assert told.shares["inference_s"] == pytest.approx(22.5 / 36, abs=0.001)


@pytest.mark.parametrize(
    ("slow", "studies", "breached"), [(1, 40, False), (3, 40, True), (3, 19, False), (0, 40, False)]
)
def test_one_in_twenty_may_be_late_and_few_studies_say_nothing(slow: int, studies: int, breached: bool) -> None:
    told = answered("brain", [took(100.0)] * slow + [took(10.0)] * (studies - slow), 60.0)
    assert told is not None
    assert told.breached is breached


def test_without_an_answer_there_is_nothing_to_say() -> None:
    assert answered("brain", [], 60.0) is None
    assert answered("brain", [{"wait_s": 1.0}], 60.0) is None

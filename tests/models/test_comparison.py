"""Two versions are compared segment by segment, number by number; agreement by chance is no agreement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.comparison import compared, dice, kappa, summary


def found(name: str, ml: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "measurements": [{"name": "Volume", "value": ml, "unit": "ml"}], "present": True, **more}


def half(count: int) -> dict[int, np.ndarray]:
    mask = np.zeros((4, 4), bool)
    mask.flat[:count] = True
    return {0: mask}


def test_dice_counts_frames_that_only_one_of_them_has() -> None:
    assert dice(half(8), half(8)) == 1.0
    assert dice(half(8), half(4)) == pytest.approx(2 * 4 / 12)
    assert dice(half(8), {1: half(8)[0]}) == 0.0
    assert dice({}, {}) == 1.0


def test_a_finding_of_one_version_alone_is_a_flip_and_numbers_are_compared_where_both_have_them() -> None:
    figures = compared(
        [found("A", 10.0), found("B", 1.0)], {"A": half(8), "B": half(2)}, [found("A", 12.0)], {"A": half(6)}
    )
    assert figures["present"] == {"A": [True, True], "B": [True, False]}
    assert figures["differences"] == {"A": {"Volume": [10.0, 12.0, "ml"]}}
    assert figures["dice"]["A"] == pytest.approx(12 / 14, abs=1e-5)
    assert figures["dice"]["B"] == 0.0


def test_a_classifier_that_says_absent_is_no_finding() -> None:
    yes, no = (found("bleed", 0.0, present=one, probability=p) for one, p in ((True, 0.9), (False, 0.2)))
    figures = compared([yes], {}, [no], {})
    assert figures["present"] == {"bleed": [True, False]}
    assert figures["differences"]["bleed"]["probability"] == [0.9, 0.2, "1"]


def test_the_summary_turns_comparisons_that_were_made_the_other_way_round() -> None:
    one = compared([found("A", 10.0)], {"A": half(8)}, [found("A", 12.0)], {"A": half(8)}) | {"turned": False}
    other = compared([found("A", 12.0)], {"A": half(8)}, [found("A", 10.0)], {"A": half(8)}) | {"turned": True}
    told = summary([one, other])
    assert told["studies"] == 2
    assert told["findings"]["A"]["differences"]["Volume"] == {"mean": 2.0, "largest": 2.0, "unit": "ml"}
    assert told["flips"] == 0


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(True, True), (False, False)], 1.0),
        ([(True, False), (False, True)], -1.0),
        ([(True, True), (True, False), (False, True), (False, False)], 0.0),
        ([(True, True)] * 3, None),
        ([], None),
    ],
)
def test_kappa_is_what_chance_does_not_explain(pairs: list[tuple[bool, bool]], expected: float | None) -> None:
    assert kappa(pairs) == expected

"""A study is fetched where it never came or not whole; what is here, results of ours counted, is left alone."""

from __future__ import annotations

from datetime import date

import pytest

from appliance.catalogue import Catalogue, overview
from appliance.catch_up import Held, chosen, days, why_missed
from tests.appliance.catalogue.rows import instance, queued_job, receive
from tests.appliance.catalogue.test_trials import finished


@pytest.mark.parametrize(
    ("instances", "held", "why"),
    [
        (10, None, "never came"),
        (None, None, "never came"),
        (10, Held(0, 0), "never came"),
        (10, Held(7, 2), "7 of 10 images came"),
        (10, Held(8, 2), ""),
        (10, Held(12, 0), ""),
        (None, Held(1, 0), ""),
    ],
)
def test_why_a_study_is_fetched(instances: int | None, held: Held | None, why: str) -> None:
    assert why_missed(instances, held) == why


def test_only_the_modalities_that_are_asked_for() -> None:
    found = {"1": (3, ("MR", "SR")), "2": (3, ("CT",)), "3": (3, ("",))}
    assert list(chosen(found, {}, ["MR"])) == ["1", "3"]
    assert list(chosen(found, {}, [])) == ["1", "2", "3"]


def test_both_days_are_among_the_days() -> None:
    assert list(days(date(2026, 2, 27), date(2026, 3, 1))) == [date(2026, 2, 27), date(2026, 2, 28), date(2026, 3, 1)]


def test_what_is_held_counts_images_once_and_results_that_left(catalogue: Catalogue) -> None:
    queued_job(catalogue, "1")
    finished(catalogue, "2", 1.0)
    with catalogue.write() as connection:
        receive(connection, instance(uid="1.1", study="1", state="replaced", path="again"), revision=2)
        found = overview.held(connection, ["1", "2", "3"])
    assert found == {"1": Held(1, 0), "2": Held(1, 1)}

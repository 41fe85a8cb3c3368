"""Tokens, roles, the throttle, and how numbers and moments are shown: values in, values out."""

from __future__ import annotations

import pytest

from appliance.console import charts
from appliance.console.access import MOST_KEYS, MOST_OF_ACCOUNT, MOST_OF_ADDRESS, WINDOW_S, Throttle, may
from appliance.console.identity import _readable
from appliance.console.showing import SIGNS, masked, seconds, sign
from appliance.job import STATES
from appliance.package_life import STATES as PLACES


def test_each_role_may_what_those_before_it_may() -> None:
    assert [may("operator", one) for one in ("viewer", "operator", "administrator")] == [True, True, False]
    assert not may("", "viewer")
    assert not may("root", "viewer")


def test_an_account_is_closed_for_a_while_and_no_other() -> None:
    throttle = Throttle()
    waits = [throttle.begin("anna", f"10.0.0.{n}", 100.0 + n) for n in range(MOST_OF_ACCOUNT + 1)]
    assert waits[:-1] == [0.0] * MOST_OF_ACCOUNT
    assert waits[-1] == pytest.approx(WINDOW_S - MOST_OF_ACCOUNT)
    assert throttle.begin("bert", "10.0.0.1", 110.0) == 0.0
    assert throttle.begin("anna", "10.0.0.1", 100.0 + WINDOW_S + 1) == 0.0


def test_an_address_that_tries_many_names_is_closed() -> None:
    throttle = Throttle()
    waits = [throttle.begin(f"name{n}", "10.0.0.1", float(n)) for n in range(MOST_OF_ADDRESS + 1)]
    assert (waits.count(0.0), waits[-1] > 0) == (MOST_OF_ADDRESS, True)
    assert throttle.begin("name", "10.0.0.2", 50.0) == 0.0


def test_the_right_password_opens_the_account_but_not_an_address_that_guesses_others() -> None:
    throttle = Throttle()
    for n in range(MOST_OF_ACCOUNT - 1):
        throttle.begin("anna", "a", float(n))
    throttle.begin("anna", "a", 20.0)
    throttle.succeeded("anna", "a")
    assert throttle.begin("anna", "a", 21.0) == 0.0
    assert len(throttle._tries["address a"]) == MOST_OF_ACCOUNT


def test_made_up_names_do_not_fill_the_memory() -> None:
    throttle = Throttle()
    for n in range(MOST_KEYS + 50):
        throttle.begin(f"name{n}", f"address{n}", 0.0)
    assert len(throttle._tries) == MOST_KEYS


@pytest.mark.parametrize(
    ("number", "shown"), [("", "–"), ("AB", "•••"), ("ABC", "•••C"), ("A1234", "•••4"), ("ACC-12345", "•••345")]
)
def test_a_masked_number_shows_a_third_of_itself_at_most(number: str, shown: str) -> None:
    assert masked(number) == shown


@pytest.mark.parametrize(
    ("length", "shown"),
    [(0.416, "0.42 s"), (12.4, "12 s"), (600, "10 min"), (3 * 3600, "3 h"), (400_000, "5 days"), (None, "–")],
)
def test_durations_are_said_as_persons_do(length: float | None, shown: str) -> None:
    assert seconds(length) == shown


def test_every_state_has_a_sign_beside_its_colour() -> None:
    assert not [state for state in (*STATES, *PLACES, "waiting", "committed", "rejected") if state not in SIGNS]
    assert sign("something new") == "·"


def test_bars_are_as_high_as_their_counts_and_say_them() -> None:
    drawn = str(charts.by_hour("Jobs", [0, 1, 4]))
    assert drawn.count("<rect") == 2
    assert 'height="40"' in drawn
    assert 'height="10"' in drawn
    assert "Jobs: 5 in 3 hours, 4 in the last, at most 4" in drawn


def test_the_way_has_a_part_for_each_step_and_says_its_seconds() -> None:
    drawn = str(charts.way({"wait_s": 1.0, "inference_s": 3.0, "cpu_s": 99.0}))
    assert drawn.count("<rect") == 2
    assert "waiting 1.00 s, inference 3.00 s" in drawn
    assert str(charts.way({})) == ""


def test_a_meter_is_full_at_most() -> None:
    assert 'width="100.0"' in str(charts.meter("ε", 99, 8))
    assert "ε: 2.00 of 8" in str(charts.meter("ε", 2, 8))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Doe^Jane^^Dr", "Doe Jane  Dr"),
        ("20240229", "2024-02-29"),
        ("", "–"),
        ("Yamada^Tarou=山田^太郎", "Yamada Tarou / 山田 太郎"),
        ("a\x1b[31m", "a [31m"),
    ],
)
def test_a_name_is_written_as_a_person_does(value: str, shown: str) -> None:
    assert _readable(value) == shown


def test_a_wait_is_put_on_record_once_in_a_window() -> None:
    throttle = Throttle()
    told = [throttle.first_told("10.0.0.1", at) for at in (0.0, 1.0, WINDOW_S - 1, WINDOW_S + 1)]
    assert told == [True, False, False, True]
    assert throttle.first_told("10.0.0.2", 1.0)

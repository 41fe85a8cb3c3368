"""When a PACS is asked for a count, whom, and what becomes of its silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.catalogue import Catalogue, evidence
from appliance.catalogue.connection import now
from appliance.completeness import Announcements, FoundCount, StudyFacts
from appliance.errors import Unreachable
from appliance.settings import Destination, Settings, parse
from tests.appliance.catalogue.rows import instance, receive
from workers.inquiry import Inquiry, is_due, whom_to_ask

PACS = """
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
find = true
"""
OTHER = PACS.replace("pacs", "other").replace("PACS", "OTHER")
NOW = now()


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def settings(text: str = PACS) -> Settings:
    return parse(text, Path("curie.toml"))


@pytest.mark.parametrize(
    ("text", "source", "asked"),
    [
        (PACS, "PACS", "pacs"),
        (PACS, "SCANNER", "pacs"),
        (PACS, "", "pacs"),
        (PACS + OTHER, "OTHER", "other"),
        (PACS + OTHER, "SCANNER", None),
        (PACS.replace("true", "false"), "PACS", None),
        (PACS + OTHER.replace("true", "false"), "OTHER", "pacs"),
        ("", "PACS", None),
    ],
)
def test_the_source_itself_is_asked_else_the_only_one_that_may_be(text: str, source: str, asked: str | None) -> None:
    found = whom_to_ask(settings(text), source)
    assert (found.name if found else None) == asked


@pytest.mark.parametrize(
    ("case", "first", "last", "asked", "more", "due"),
    [
        ("it just began", 0.9, 0.1, None, {}, False),
        ("soon after it began, while it comes", 1, 0.1, None, {}, True),
        ("asked once, and still coming", 9, 0.1, 8, {}, False),
        ("settled since", 9, 1, 8, {}, True),
        ("asked since it settled", 9, 3, 1.9, {}, False),
        ("nothing came, but time went by", 20, 10, 5, {}, True),
        ("the headers say it", 9, 3, None, {"expected": 4}, False),
        ("it was announced", 9, 3, None, {"announcements": Announcements(4, missing=1)}, False),
        ("a step is in progress: no count yet", 9, 3, None, {"announcements": Announcements(in_progress=1)}, True),
        ("complete by a count before", 9, 3, None, {"counted_before": True}, False),
    ],
)
def test_when_to_ask(
    case: str, first: float, last: float, asked: float | None, more: dict[str, Any], due: bool
) -> None:
    facts = StudyFacts(ago(first), ago(last), [], **more)
    assert is_due(facts, None if asked is None else ago(asked), NOW) is due, case


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def receiving(catalogue: Catalogue) -> dict[str, StudyFacts]:
    with catalogue.read() as connection:
        return evidence.receiving_studies(connection, now())


def test_an_answer_becomes_a_fact_and_one_question_is_on_its_way_at_a_time(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        receive(connection, instance("2.1", study="2"))
    asked: list[str] = []
    goes_on = threading.Event()

    def ask(destination: Destination, our_ae_title: str, study: str) -> int | None:
        asked.append(study)
        assert goes_on.wait(10)
        return 5 if study == "1" else None

    inquiry = Inquiry(settings(), catalogue, ask)
    at = now() + timedelta(seconds=2)
    inquiry.consider(receiving(catalogue), at)
    inquiry.consider(receiving(catalogue), at + timedelta(seconds=60))
    until(lambda: len(asked) == 1)
    goes_on.set()
    until(lambda: len(asked) == 2 and not inquiry._waiting)
    facts = receiving(catalogue)
    found = facts["1"].found
    assert found is not None
    assert found == FoundCount(5, found.asked_at, True)
    assert facts["2"].found is None


def test_a_pacs_that_does_not_answer_is_left_alone_longer_and_longer(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        for study in ("1", "2"):
            receive(connection, instance(f"{study}.1", study=study))
    asked: list[str] = []

    def ask(destination: Destination, our_ae_title: str, study: str) -> int | None:
        asked.append(study)
        raise Unreachable("it does not answer")

    inquiry = Inquiry(settings(), catalogue, ask)
    inquiry.consider(receiving(catalogue), now() + timedelta(seconds=2))
    until(lambda: not inquiry._waiting)
    assert asked == ["1"], "the second study's question is not worth a wait"
    inquiry.consider(receiving(catalogue), now() + timedelta(seconds=4))
    assert not inquiry._waiting
    for n, wait_s in enumerate((10, 20, 40), 2):
        inquiry._rests = {name: (now(), s) for name, (_, s) in inquiry._rests.items()}
        inquiry.consider(receiving(catalogue), now() + timedelta(seconds=100 * n))
        until(lambda: not inquiry._waiting)
        assert len(asked) == n
        assert inquiry._rests["pacs"][1] == wait_s


def test_a_question_that_breaks_does_not_end_asking(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
    answers = iter([ZeroDivisionError(), 7])

    def ask(destination: Destination, our_ae_title: str, study: str) -> int | None:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    inquiry = Inquiry(settings(), catalogue, ask)
    inquiry.consider(receiving(catalogue), now() + timedelta(seconds=2))
    until(lambda: not inquiry._waiting)
    inquiry._rests.clear()
    inquiry.consider(receiving(catalogue), now() + timedelta(seconds=20))
    until(lambda: receiving(catalogue)["1"].found is not None)

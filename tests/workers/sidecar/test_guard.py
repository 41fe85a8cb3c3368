from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.errors import RoundRefused
from models.federation import Update, encode
from workers.asking import Ask, abstention, ask_bytes, read_ask, reason_of
from workers.sidecar import guard
from workers.sidecar.ledger import Entry, Ledger

ABOUT = {
    "cycle": "cycle-1", "round": 1, "package": "tiny", "version": "1.0.0", "package_digest": "ab" * 32, "steps": 1,
    "batch": 1, "learning_rate": 1e-3, "proximal": 0.0, "clip_norm": 5.0, "seed": 1,
}  # fmt: skip


@pytest.fixture
def asked() -> tuple[dict[str, Any], Ask]:
    """A base and the question about it, as a site reads them."""
    content, _, _ = ask_bytes({"a": np.ones((2, 3), np.float32)}, ABOUT)
    return read_ask(content)


def test_a_declared_update_passes_and_an_abstention_too(asked: tuple[dict[str, Any], Ask]) -> None:
    base, ask = asked
    content = encode(Update(ask.question("one"), {"a": np.full((2, 3), 0.5, np.float32)}, 3, {"loss": 1.0}))
    update = guard.passed(content, ask, base, "one")
    assert update is not None
    assert update.cases == 3
    assert guard.passed(abstention("paused here"), ask, base, "one") is None


@pytest.mark.parametrize(
    ("deltas", "metrics", "site", "why"),
    [
        ({"a": np.full((2, 3), 9, np.float32)}, {}, "one", "norm"),
        ({"a": np.ones((2, 3), np.float32)}, {"patient_age": 61.0}, "one", "'patient_age' may not leave"),
        ({"a": np.ones((2, 3), np.float32), "image": np.ones(9, np.float32)}, {}, "one", "'image'"),
        ({"a": np.ones((2, 3), np.float32)}, {}, "two", "another site"),
    ],
)
def test_nothing_else_leaves(
    asked: tuple[dict[str, Any], Ask], deltas: dict[str, Any], metrics: dict[str, float], site: str, why: str
) -> None:
    base, ask = asked
    content = encode(Update(ask.question(site), deltas, 3, metrics))
    with pytest.raises(RoundRefused, match=why):
        guard.passed(content, ask, base, "one")


@pytest.mark.parametrize("content", [b"", b"MRN 4711", b"abstains: " + b"x" * 5000])
def test_bytes_that_are_nothing_declared_do_not_leave(asked: tuple[dict[str, Any], Ask], content: bytes) -> None:
    base, ask = asked
    with pytest.raises(RoundRefused):
        guard.passed(content, ask, base, "one")


def test_a_question_with_an_unknown_word_or_another_base_is_refused() -> None:
    weights = {"a": np.ones((2, 3), np.float32)}
    with pytest.raises(ValueError, match="script"):
        ask_bytes(weights, {**ABOUT, "script": "run me"})
    content, _, _ = ask_bytes(weights, ABOUT)
    with pytest.raises(RoundRefused, match="not the one"):
        read_ask(content[:-2] + b"\x00\x40")


def test_reasons_are_one_short_printable_line() -> None:
    told = reason_of(abstention("two\nlines \x1b[2J" + "x" * 999))
    assert told is not None
    assert told.isprintable()
    assert len(told) <= 200


def test_the_ledger_says_what_left_and_what_is_new_since_the_last_cycle(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    first = Entry("2026-11-22T00:00:00+00:00", "tiny", "cycle-1", 1, "update", 10, "ab", cases=30)
    ledger.add(first)
    ledger.add(Entry("2026-11-22T00:01:00+00:00", "tiny", "cycle-1", 2, "update", 10, "ab", "", 31, 1.0, 0.1, 60, 2.5))
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"at": "torn')
    ledger.add(Entry("2026-11-22T00:02:00+00:00", "other", "cycle-1", 1, "abstention", 10, "ab", "paused here"))
    assert len(ledger.entries()) == 3
    assert ledger.entries()[0] == first
    assert ledger.learned_at("tiny", but="cycle-1") is None
    assert ledger.learned_at("tiny", but="cycle-2") == datetime(2026, 11, 22, 0, 1, tzinfo=UTC)
    assert ledger.learned_at("other") is None
    assert ledger.history("tiny") == [(1.0, 0.1, 60)]
    assert ledger.epsilon("tiny") == 2.5

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from appliance.errors import Missing
from models.federation import digest_of
from workers.coordinator.lineage import CycleRecord, Lineage, RoundRecord, name_of, next_version, packages_with_lineage

WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
CYCLE = CycleRecord("cycle-1", "tiny", "1.0.0", "ab" * 32, 3, "2026-11-22T00:00:00+00:00")


def record(number: int, weights: dict[str, np.ndarray] | None = None) -> RoundRecord:
    return RoundRecord("cycle-1", number, "cd" * 32, digest_of(weights or WEIGHTS), sites={"one": {"cases": 3}})


def test_a_cycle_and_its_rounds_are_read_as_they_were_written(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path, "tiny")
    lineage.begin(CYCLE, WEIGHTS)
    lineage.add(WEIGHTS, record(1))
    assert lineage.cycle("cycle-1") == CYCLE
    assert lineage.unfinished() == CYCLE
    zero, one = lineage.rounds("cycle-1")
    assert (zero.round, one.round, one.sites) == (0, 1, {"one": {"cases": 3}})
    assert np.array_equal(lineage.weights(one)["a"], WEIGHTS["a"])
    assert packages_with_lineage(tmp_path) == ["tiny"]
    lineage.change(CYCLE, state="published", candidate="1.0.1")
    assert lineage.unfinished() is None


def test_what_a_kill_left_half_written_is_not_there(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path, "tiny")
    lineage.begin(CYCLE, WEIGHTS)
    torn = tmp_path / "federation" / "tiny" / "cycle-1" / ".round-01.partial"
    torn.mkdir()
    (torn / "record.json").write_text("{")
    assert [one.round for one in lineage.rounds("cycle-1")] == [0]
    lineage.add(WEIGHTS, record(1))
    assert [one.round for one in lineage.rounds("cycle-1")] == [0, 1]


def test_a_round_that_is_written_is_never_written_over(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path, "tiny")
    lineage.begin(CYCLE, WEIGHTS)
    with pytest.raises(OSError, match="not empty"):
        lineage.add(WEIGHTS, record(0))


def test_weights_that_are_not_what_the_record_says_are_not_used(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path, "tiny")
    lineage.begin(CYCLE, WEIGHTS)
    lineage.add({"a": WEIGHTS["a"] + 1}, record(1))
    with pytest.raises(Missing, match="not what the round wrote"):
        lineage.weights(lineage.rounds("cycle-1")[1])


def test_the_last_that_counted_is_of_the_same_package_and_not_where_it_began(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path, "tiny")
    lineage.begin(CYCLE, WEIGHTS)
    assert lineage.last_accepted("ab" * 32) is None
    later = {"a": WEIGHTS["a"] * 2}
    lineage.add(later, record(1, later))
    found = lineage.last_accepted("ab" * 32)
    assert found is not None
    assert np.array_equal(found["a"], later["a"])
    assert lineage.last_accepted("ef" * 32) is None


def test_names_and_versions() -> None:
    from datetime import UTC, datetime

    at = datetime(2026, 11, 22, 2, tzinfo=UTC)
    assert name_of(at).startswith("cycle-20261122T020000-")
    assert name_of(at) != name_of(at)
    assert next_version("0.2.9") == "0.2.10"

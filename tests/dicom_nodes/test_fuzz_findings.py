"""What fuzzing once found, as small inputs; and the inputs it starts from, so that its targets stay true.

The first byte of an input names the target (`tests.fuzz.targets.TARGETS`).
"""

from __future__ import annotations

import pytest

from tests.fuzz import targets
from tests.fuzz.seeds import seeds

FINDINGS: list[bytes] = []


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the fuzzer."""
    targets.shrink(monkeypatch.setattr)


def test_findings_stay_mended() -> None:
    for one in FINDINGS:
        targets.run_one(one)


def test_the_seeds_reach_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    acknowledged: list[int] = []
    count = targets._acknowledged

    def noted(sent: bytes) -> int:
        acknowledged.append(count(sent))
        return acknowledged[-1]

    monkeypatch.setattr(targets, "_acknowledged", noted)
    for one in seeds():
        targets.run_one(one)
    assert sum(acknowledged) >= 15
    assert max(acknowledged) == 2


def test_a_target_sees_a_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_nodes.services.Keeping.close", lambda self: self._discard())
    store = next(one for one in seeds() if targets.TARGETS[one[0]] is targets.STOW)
    with pytest.raises(AssertionError):
        targets.run_one(store)

"""Every row of the table in completeness.py, and its edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from appliance.completeness import AssociationFact, Limits, StudyFacts, decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(after_release_s=3, quiet_s=30, force_s=900)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def ended(seconds: float, *, aborted: bool = False) -> AssociationFact:
    return AssociationFact(lease_until=ago(seconds), ended_at=ago(seconds), aborted=aborted)


OPEN = AssociationFact(lease_until=NOW + timedelta(seconds=10))


@pytest.mark.parametrize(
    ("case", "first", "last", "associations", "reason"),
    [
        ("forced while an association is open", 900, 1, [OPEN], "forced"),
        ("forced with no association known", 901, 1, [], "forced"),
        ("not yet forced", 899, 1, [OPEN], ""),
        ("released long enough ago", 20, 5, [ended(3)], "released"),
        ("released just now", 20, 5, [ended(2.9)], ""),
        ("the last of two counts", 20, 5, [ended(10), ended(1)], ""),
        ("one of two is still open", 20, 5, [ended(10), OPEN], ""),
        ("an open association is waited for until quiet", 100, 30, [OPEN], "quiet"),
        ("an open association, not quiet yet", 100, 29, [OPEN], ""),
        ("aborted: the sender will come again", 20, 5, [ended(5, aborted=True)], ""),
        ("aborted and quiet", 60, 31, [ended(31, aborted=True)], "quiet"),
        ("aborted, then another was released", 60, 5, [ended(40, aborted=True), ended(4)], "released"),
        ("released, then another was aborted", 60, 5, [ended(40), ended(4, aborted=True)], ""),
        ("no association known, quiet", 60, 30, [], "quiet"),
        ("no association known, not quiet", 60, 5, [], ""),
        ("its lease ran out: it counts as aborted", 60, 5, [AssociationFact(lease_until=ago(4))], ""),
        ("its lease ran out, and quiet", 60, 30, [AssociationFact(lease_until=ago(4))], "quiet"),
    ],
)
def test_each_row(case: str, first: float, last: float, associations: list[AssociationFact], reason: str) -> None:
    decision = decide(StudyFacts(ago(first), ago(last), associations), LIMITS, NOW)
    assert (decision.complete, decision.reason) == (bool(reason), reason), case

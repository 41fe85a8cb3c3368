"""Every row of the table in completeness.py, and its edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from appliance.completeness import (
    Announcements,
    AssociationFact,
    FoundCount,
    Limits,
    Pauses,
    SeriesFact,
    StudyFacts,
    decide,
    learned_wait_s,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(after_release_s=3, quiet_s=30, force_s=900)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def ended(seconds: float, *, aborted: bool = False) -> AssociationFact:
    return AssociationFact(lease_until=ago(seconds), ended_at=ago(seconds), aborted=aborted)


OPEN = AssociationFact(lease_until=NOW + timedelta(seconds=10))
FULL, SHORT, UNKNOWN = SeriesFact(10, 10), SeriesFact(9, 10), SeriesFact(10)


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
        ("a pause of 10 s in an open association", 20, 10, [OPEN], ""),
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
def test_without_other_evidence(
    case: str, first: float, last: float, associations: list[AssociationFact], reason: str
) -> None:
    decision = decide(StudyFacts(ago(first), ago(last), associations, held=10), LIMITS, NOW)
    assert (decision.complete, decision.reason) == (bool(reason), reason), case
    assert bool(decision.evidence) == decision.complete


def study(last: float = 0.1, *associations: AssociationFact, **more: Any) -> StudyFacts:
    return StudyFacts(ago(100), ago(last), associations or [OPEN], **{"held": 10, **more})


@pytest.mark.parametrize(
    ("case", "facts", "reason"),
    [
        ("the headers' count is reached, with the association open", study(expected=10), "counted"),
        ("it is not reached", study(expected=11), ""),
        ("more came than the headers count: no evidence", study(expected=9), ""),
        ("the headers differ: the source counts as it goes", study(expected=10, expected_varies=True), ""),
        ("a count reached before says nothing of a correction", study(expected=10, counted_before=True), ""),
        ("the correction's association is released", study(4, ended(3), expected=10, counted_before=True), "released"),
        ("all that was announced came", study(announcements=Announcements(10)), "counted"),
        ("one that was announced did not", study(announcements=Announcements(11, missing=1)), ""),
        ("one came unannounced", study(announcements=Announcements(9, unannounced=1)), ""),
        ("another step is in progress", study(announcements=Announcements(10, in_progress=1)), ""),
        ("nothing was announced", study(announcements=Announcements()), ""),
        ("the series' counts, with the association open", study(series=[FULL, FULL]), ""),
        ("the series' counts, all released", study(1, ended(0.5), series=[FULL, FULL]), "counted"),
        ("another series may be on its way", study(1, ended(0.4), series=[FULL, FULL]), ""),
        ("one series without count", study(1, ended(0.5), series=[FULL, UNKNOWN]), ""),
        ("one series not reached", study(1, ended(0.5), series=[FULL, SHORT]), ""),
        ("the series' counts, aborted", study(1, ended(0.5, aborted=True), series=[FULL]), ""),
        ("series by series, with pauses", study(5, ended(4), series=[FULL], pauses=Pauses(4)), ""),
        ("series by series, the pause is over", study(7, ended(6), series=[FULL], pauses=Pauses(4)), "counted"),
        ("the PACS was ahead and we reached it", study(1, found=FoundCount(10, ago(50), True)), "counted"),
        ("reached this moment", study(0.9, found=FoundCount(10, ago(50), True)), ""),
        ("the PACS was ahead and is still", study(1, found=FoundCount(11, ago(0.5), True)), ""),
        ("the PACS has no more, but may be receiving itself", study(2, found=FoundCount(10, ago(0.5))), ""),
        ("the PACS has no more, and has released", study(2, ended(1.5), found=FoundCount(10, ago(0.5))), "counted"),
        ("asked too soon", study(2, ended(1.5), found=FoundCount(10, ago(1.1))), ""),
        ("a PACS that knows less than came", study(2, ended(1.5), found=FoundCount(9, ago(0.5))), ""),
        ("it holds our results, too", study(2, ended(1.5), results=2, found=FoundCount(12, ago(0.5))), "counted"),
        ("the PACS pauses, too", study(9, ended(9), found=FoundCount(10, ago(1)), pauses=Pauses(10)), ""),
    ],
)  # fmt: skip
def test_counts(case: str, facts: StudyFacts, reason: str) -> None:
    assert decide(facts, LIMITS, NOW).reason == reason, case


@pytest.mark.parametrize(
    ("case", "more"),
    [
        ("a known count", {"expected": 11}),
        ("counts that differ, the greatest", {"expected": 11, "expected_varies": True}),
        ("the PACS has more", {"found": FoundCount(11, ago(60))}),
        ("an announced instance", {"announcements": Announcements(11, missing=1)}),
        ("a step in progress", {"announcements": Announcements(in_progress=1)}),
        ("a series", {"series": [FULL, SHORT]}),
        ("a gap", {"gap": "the slice positions of a series have a gap"}),
    ],
)
def test_what_is_missing_is_waited_for_until_quiet(case: str, more: dict[str, Any]) -> None:
    assert not decide(study(29, ended(29), **more), LIMITS, NOW).complete, case
    decision = decide(study(30, ended(29), **more), LIMITS, NOW)
    assert decision.reason == "quiet", case
    assert decision.evidence.startswith("no instance for 30 s; "), case
    assert decide(study(4, ended(3), gap=""), LIMITS, NOW).reason == "released"


@pytest.mark.parametrize(
    ("pauses", "last", "end", "reason"),
    [
        (Pauses(between_s=10), 15, 14.9, ""),
        (Pauses(between_s=10), 16, 15, "released"),
        (Pauses(between_s=1), 4, 3, "released"),  # after_release_s is longer
        (Pauses(inside_s=50), 4, 3, "released"),  # says nothing of the next association
        (Pauses(between_s=60), 80, None, ""),
        (Pauses(between_s=60), 90, None, "quiet"),
        (Pauses(inside_s=40), 59, None, ""),
        (Pauses(inside_s=40), 60, None, "quiet"),
    ],
)
def test_a_learned_pause_is_waited_for(pauses: Pauses, last: float, end: float | None, reason: str) -> None:
    facts = study(last, OPEN if end is None else ended(end), pauses=pauses)
    assert decide(facts, LIMITS, NOW).reason == reason
    assert learned_wait_s(1000) == 90


def test_a_count_ignores_the_learned_pause() -> None:
    assert decide(study(0, ended(0), expected=10, pauses=Pauses(60, 60)), LIMITS, NOW).reason == "counted"
    told = Announcements(10)
    assert decide(study(0, ended(0), announcements=told, pauses=Pauses(60, 60)), LIMITS, NOW).reason == "counted"


@pytest.mark.parametrize(
    ("first", "last", "association", "in_time", "behind"),
    [
        (901, 1, OPEN, "forced", ""),
        (100, 31, OPEN, "quiet", ""),
        (100, 4, ended(3), "released", ""),
        (100, 9, ended(8), "released", "released"),
    ],
)
def test_a_lagging_indexer_makes_no_study_look_quiet(
    first: float, last: float, association: AssociationFact, in_time: str, behind: str
) -> None:
    facts = StudyFacts(ago(first), ago(last), [association])
    assert decide(facts, LIMITS, NOW).reason == in_time
    assert decide(facts, LIMITS, NOW, behind_s=5).reason == behind


def test_a_lease_that_an_unread_renewal_would_move_has_not_run_out() -> None:
    associations = [AssociationFact(lease_until=ago(4)), ended(3)]
    facts = StudyFacts(ago(60), ago(5), associations)
    assert decide(facts, LIMITS, NOW).reason == "released"
    assert decide(facts, LIMITS, NOW, behind_s=10).reason == ""


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (study(expected=10), "10 of 10 instances, count from the headers"),
        (study(4, ended(3)), "all associations released 3.0 s ago"),
        (study(16, ended(15), pauses=Pauses(10)), "all associations released 15.0 s ago; the source's pause is 15 s"),
        (study(31, expected=12), "no instance for 31 s; 10 of 12 instances came, by the count in the headers"),
        (study(1, ended(1), series=[FULL]), "10 instances, as many as the headers of 1 series count"),
    ],
)
def test_the_evidence_is_a_sentence(facts: StudyFacts, sentence: str) -> None:
    assert decide(facts, LIMITS, NOW).evidence == sentence

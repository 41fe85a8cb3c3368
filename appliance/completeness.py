"""When is a study complete? A pure decision: facts and `now` in, answer, reason and evidence out. It never waits.

The first row that holds decides. "Released": every association that brought instances of the study has ended, and the
last end was no abort. `pause`: what this source was seen to pause within a study, times 1.5, at most 90 s, else 0.

| holds                                                                                                | answer   |
|------------------------------------------------------------------------------------------------------|----------|
| force_s since the first instance                                                                     | forced   |
| the count of the study in its headers (0020,1208), the same in all of them, is what came (1)         | counted  |
| every announced instance came, no image came unannounced, no procedure step is IN PROGRESS (1)       | counted  |
| the PACS's count is what we hold, it said so when we held less, and no instance came for 1 s (1)     | counted  |
| the PACS's count, asked 1 s after the last instance, is what we hold; released for ≥ pause (1)       | counted  |
| each series has a count (0020,1209) and that many came; released for ≥ the larger of 0.5 s, pause (1)| counted  |
| released for ≥ the larger of after_release_s, pause between associations; nothing missing (2)        | released |
| no instance for ≥ the larger of quiet_s, pause                                                       | quiet    |
| otherwise                                                                                            | wait     |

(1) Not where the study was complete by a count before: that count says nothing of what came since (a corrected header
of every image comes one by one). More instances than the headers count, or counts that differ from image to image (a
source that counts as it goes), are no evidence that nothing is to come.
(2) Missing: a count above is not reached, an announced instance did not come, a procedure step is IN PROGRESS, the
instance numbers or slice positions of a series have a gap.

A count of the PACS that was never ahead of us may be a count of what the PACS itself has so far; so it is believed only
when the sender is done, too. An association whose lease ran out ended, aborted, when the lease did. What the catalogue
knows ends `behind_s` before `now`: everything is judged by that clock, so a lagging indexer splits no study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

PAUSE_FACTOR, LONGEST_PAUSE_S = 1.5, 90.0
SETTLED_S = 1.0  # without an instance, before a count of the PACS is asked for or believed
BETWEEN_S = 0.5  # a source that sends series by series opens its next association sooner


@dataclass(frozen=True)
class AssociationFact:
    """One association that brought instances of the study."""

    lease_until: datetime
    ended_at: datetime | None = None
    aborted: bool = False


@dataclass(frozen=True)
class SeriesFact:
    """How many images of a series came, and how many its headers say there are (0020,1209)."""

    held: int
    expected: int | None = None


@dataclass(frozen=True)
class Announcements:
    """What notifications of availability (PS3.4 Annex R) and procedure steps (PS3.4 Annex F) say of a study."""

    instances: int = 0  # announced, by notifications and by completed steps
    missing: int = 0  # of these
    unannounced: int = 0  # images that came though nobody announced them
    in_progress: int = 0  # procedure steps


@dataclass(frozen=True)
class FoundCount:
    """Number of Study Related Instances (0020,1208) as a PACS answered it to C-FIND."""

    count: int
    asked_at: datetime
    ahead: bool = False  # it gave this number when we held fewer


@dataclass(frozen=True)
class Pauses:
    """The longest pauses lately seen of the source within one study, in seconds; 0 when there were none."""

    between_s: float = 0.0  # two associations
    inside_s: float = 0.0  # an open association


@dataclass(frozen=True)
class StudyFacts:
    """What the catalogue knows of a study that is being received."""

    first_received_at: datetime
    last_received_at: datetime
    associations: Sequence[AssociationFact]
    held: int = 0  # distinct SOP Instance UIDs, documents too, results of ours apart; 0 where nobody counts
    results: int = 0  # of ours that the PACS holds for this study
    expected: int | None = None  # (0020,1208) in the headers, the greatest
    expected_varies: bool = False
    series: Sequence[SeriesFact] = ()
    announcements: Announcements = field(default_factory=Announcements)
    found: FoundCount | None = None
    pauses: Pauses = field(default_factory=Pauses)
    counted_before: bool = False
    source: str = ""  # AE title that brought the last instances
    gap: str | None = None  # where there is one, in words; None: nobody looked


@dataclass(frozen=True)
class Limits:
    """The settings under [completeness], in seconds."""

    after_release_s: float
    quiet_s: float
    force_s: float


@dataclass(frozen=True)
class Decision:
    """`reason` is one of counted, released, quiet, forced when complete, else empty; `evidence` is a sentence."""

    complete: bool
    reason: str = ""
    evidence: str = ""


WAIT = Decision(False)


def decide(facts: StudyFacts, limits: Limits, now: datetime, behind_s: float = 0.0) -> Decision:
    """Return whether the study is complete at `now`, by the table above."""
    clock = now - timedelta(seconds=behind_s)
    since_first = (clock - facts.first_received_at).total_seconds()
    if since_first >= limits.force_s:
        return Decision(True, "forced", _with_missing(f"{since_first:.0f} s since the first instance", facts))
    released_s = _released_s(facts.associations, clock)
    if evidence := _counted(facts, released_s, clock):
        return Decision(True, "counted", evidence)
    pause_s = learned_wait_s(facts.pauses.between_s)
    if released_s is not None and released_s >= max(limits.after_release_s, pause_s) and not missing(facts):
        learned = f"; the source's pause is {pause_s:.0f} s" if pause_s > limits.after_release_s else ""
        return Decision(True, "released", f"all associations released {released_s:.1f} s ago{learned}")
    return _quiet(facts, limits, clock)


def _quiet(facts: StudyFacts, limits: Limits, clock: datetime) -> Decision:
    longest = max(limits.quiet_s, learned_wait_s(max(facts.pauses.between_s, facts.pauses.inside_s)))
    quiet_s = (clock - facts.last_received_at).total_seconds()
    if quiet_s < longest:
        return WAIT
    return Decision(True, "quiet", _with_missing(f"no instance for {quiet_s:.0f} s", facts))


def learned_wait_s(pause_s: float) -> float:
    """Return how long to wait for a source that was seen to pause so long."""
    return min(PAUSE_FACTOR * pause_s, LONGEST_PAUSE_S)


def _released_s(associations: Sequence[AssociationFact], clock: datetime) -> float | None:
    """Return the seconds since the last association was released; None while one is open or the last was aborted."""
    ends = [_end(fact, clock) for fact in associations]
    known = [end for end in ends if end is not None]
    if not known or len(known) < len(ends):
        return None
    last_end, aborted = max(known)
    return None if aborted else (clock - last_end).total_seconds()


def _end(fact: AssociationFact, clock: datetime) -> tuple[datetime, bool] | None:
    if fact.ended_at is not None:
        return fact.ended_at, fact.aborted
    if fact.lease_until <= clock:
        return fact.lease_until, True
    return None


def _counted(facts: StudyFacts, released_s: float | None, clock: datetime) -> str:
    """Return the count that was reached, in words, or nothing."""
    if facts.counted_before:
        return ""
    if facts.held == facts.expected and not facts.expected_varies:
        return f"{facts.held} of {facts.expected} instances, count from the headers"
    told = facts.announcements
    if told.instances and not (told.missing or told.unannounced or told.in_progress):
        return f"{told.instances} of {told.instances} announced instances"
    pause_s = learned_wait_s(facts.pauses.between_s)
    if facts.found and _found_reached(facts, facts.found, released_s, clock):
        return f"{facts.found.count} of {facts.found.count} instances, count from the PACS"
    if released_s is None or released_s < max(BETWEEN_S, pause_s) or missing(facts):
        return ""
    if facts.series and all(one.expected is not None for one in facts.series):
        held = sum(one.held for one in facts.series)
        return f"{held} instances, as many as the headers of {len(facts.series)} series count"
    return ""


def _found_reached(facts: StudyFacts, found: FoundCount, released_s: float | None, clock: datetime) -> bool:
    if not facts.held <= found.count <= facts.held + facts.results:
        return False
    settled = facts.last_received_at + timedelta(seconds=SETTLED_S)
    if found.ahead:
        return clock >= settled
    wait_s = learned_wait_s(facts.pauses.between_s)
    return found.asked_at >= settled and released_s is not None and released_s >= wait_s


def missing(facts: StudyFacts) -> str:
    """Return in words what says that more is to come, or nothing."""
    told = facts.announcements
    short = [one for one in facts.series if one.expected is not None and one.held < one.expected]
    if facts.expected is not None and facts.held < facts.expected:
        return f"{facts.held} of {facts.expected} instances came, by the count in the headers"
    if facts.found and facts.held + facts.results < facts.found.count:
        return f"{facts.held + facts.results} of {facts.found.count} instances came, by the count of the PACS"
    if told.missing:
        return f"{told.missing} of {told.instances} announced instances did not come"
    if told.in_progress:
        return "a procedure step is still in progress"
    if short:
        return f"{short[0].held} of {short[0].expected} instances of a series came, by the count in its headers"
    return facts.gap or ""


def _with_missing(sentence: str, facts: StudyFacts) -> str:
    return "; ".join(part for part in (sentence, missing(facts)) if part)

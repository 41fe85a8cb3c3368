"""Whether this site takes part in a round now: a pure decision, with the reason where it does not.

The site owns it: no coordinator can change an answer. It must never read a clock or a catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time


@dataclass(frozen=True)
class Situation:
    """What the decision hangs on."""

    package: str
    clock: time  # local
    hours: str  # "19:00-06:00"; equal ends: the whole day
    paused: bool
    approved: bool  # the settings name the package, and this very version is installed and not retired
    clinical: int  # jobs that wait or run
    new_cases: int  # since the last cycle that this site gave to
    min_new_cases: int
    epsilon_spent: float
    epsilon_budget: float
    private: bool  # privacy is dp


def reason_to_abstain(now: Situation) -> str | None:
    """Return why the site sits this round out, None if it takes part."""
    if now.paused:
        return "paused here"
    if not now.approved:
        return f"{now.package} is not approved here"
    if not within(now.clock, now.hours):
        return f"outside of its hours ({now.hours})"
    if now.clinical:
        return "clinical work is waiting or running"
    if now.new_cases < now.min_new_cases:
        return f"{now.new_cases} new cases, {now.min_new_cases} are wanted"
    if now.private and now.epsilon_spent >= now.epsilon_budget:
        return f"its privacy budget is spent ({now.epsilon_spent:.2f} of {now.epsilon_budget:g})"
    return None


def within(clock: time, hours: str) -> bool:
    """Tell whether a time of day lies within "HH:MM-HH:MM", which may pass midnight."""
    begins, ends = (time.fromisoformat(one) for one in hours.split("-"))
    if begins == ends:
        return True
    if begins < ends:
        return begins <= clock < ends
    return clock >= begins or clock < ends

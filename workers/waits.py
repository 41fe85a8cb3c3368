"""How long to wait after a try in vain. Pure; it must never look at a clock."""

from __future__ import annotations

LONGEST_WAIT_S = 900.0


def backoff_s(tries: int, first: float = 1.0) -> float:
    """Return the wait after so many tries in vain: doubling from `first`, at most 15 minutes."""
    return float(min(first * 2 ** min(tries, 20), LONGEST_WAIT_S))

"""Cron expressions of five fields: minute, hour, day of month, month, day of week (0 or 7 is Sunday).

Lists, ranges and steps are known, names are not. It must never read a clock: time comes in as `moment`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
LONGEST = timedelta(days=4 * 366)  # until 29 February comes again


@dataclass(frozen=True)
class Schedule:
    """The minutes at which something is due."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    either_day: bool  # day of month and day of week are both restricted: one of them is enough, as in cron

    def due(self, moment: datetime) -> bool:
        """Tell whether the minute of `moment` is one of them."""
        on_day = moment.day in self.days
        on_weekday = moment.isoweekday() % 7 in self.weekdays
        right_day = (on_day or on_weekday) if self.either_day else (on_day and on_weekday)
        return right_day and moment.month in self.months and moment.hour in self.hours and moment.minute in self.minutes

    def after(self, moment: datetime) -> datetime | None:
        """Return the next due minute after `moment`, None if there is none within four years."""
        found = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
        last = found + LONGEST
        while found < last:
            if self.due(found):
                return found
            if found.hour in self.hours and found.month in self.months:
                found += timedelta(minutes=1)
            else:
                found = found.replace(minute=0) + timedelta(hours=1)
        return None


def parse(text: str) -> Schedule:
    """Return the schedule that a cron expression says. Raises ValueError."""
    parts = text.split()
    if len(parts) != len(FIELDS):
        raise ValueError(f"{text!r} has {len(parts)} fields; minute, hour, day, month and weekday are wanted")
    minutes, hours, days, months, weekdays = (_numbers(part, *field) for part, field in zip(parts, FIELDS, strict=True))
    either = not parts[2].startswith("*") and not parts[4].startswith("*")
    return Schedule(minutes, hours, days, months, frozenset(one % 7 for one in weekdays), either)


def _numbers(part: str, name: str, lowest: int, highest: int) -> frozenset[int]:
    """Return the numbers that one field names."""
    found: set[int] = set()
    for piece in part.split(","):
        span, _, step = piece.partition("/")
        low, _, high = span.partition("-")
        try:
            first = lowest if span == "*" else int(low)
            last = highest if span == "*" or (step and not high) else int(high or low)
            width = int(step or 1)
        except ValueError:
            raise ValueError(f"{piece!r} is no {name} of a cron expression") from None
        if not lowest <= first <= last <= highest or width < 1:
            raise ValueError(f"{piece!r}: a {name} lies between {lowest} and {highest}")
        found |= set(range(first, last + 1, width))
    return frozenset(found)

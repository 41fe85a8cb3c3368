"""Ratios against what is promised: computed within each repetition, kept in the record, printed with a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.record import Record

Row = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """A ratio of one field: a subject's in a case ÷ another subject's; without the other, the subject's alone."""

    name: str
    target: str  # e.g. "≥ 2"
    case: str
    field: str
    subject: str
    other: str = ""

    def values(self, rows: Sequence[Row]) -> list[float]:
        """Return the ratio of every repetition that has both rows."""
        found = {(row["subject"], row["run"]): row.get(self.field) for row in rows if row["case"] == self.case}
        values = []
        for (subject, run), figure in found.items():
            below = found.get((self.other, run)) if self.other else 1.0
            if subject == self.subject and figure is not None and below:
                values.append(figure / below)
        return values

    def is_met(self, value: float) -> bool:
        """Return whether a median meets the target."""
        limit = float(self.target[1:])
        return value <= limit if self.target[0] == "≤" else value >= limit


def keep(record: Record, bars: Sequence[Bar], reason: Callable[[Bar], str]) -> None:
    """Put every ratio into the record, or why there is none, and print them with their targets."""
    print(f"\n{'ratio':34}{'median':>9}{'low':>9}{'high':>9}  n  target")
    for bar in bars:
        values = bar.values(record.rows)
        if not values:
            record.no_ratio(bar.name, reason(bar))
            print(f"{bar.name:34}     none: {record.ratios[bar.name]['reason']}")
            continue
        record.ratio(bar.name, values)
        kept = record.ratios[bar.name]
        verdict = "met" if bar.is_met(kept["median"]) else "MISSED"
        figures = "".join(f"{kept[name]:>9.3f}" for name in ("median", "low", "high"))
        print(f"{bar.name:34}{figures}  {kept['n']}  {bar.target} {verdict}; {bar.case}")

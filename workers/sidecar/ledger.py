"""What left this site, when, and what privacy it cost: one line of JSON each, written down before it leaves.

It must never hold anything of a patient: digests, sizes and counts alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One thing that left."""

    at: str
    package: str
    cycle: str
    round: int
    what: str  # update | abstention | receipt
    bytes: int
    sha256: str
    detail: str = ""  # why it abstains
    cases: int = 0  # on disk when it was trained
    noise: float = 0.0  # multiplier; 0: none was added
    rate: float = 0.0  # with which a patient was drawn in a step
    steps: int = 0
    epsilon: float = 0.0  # of all rounds of this package so far


class Ledger:
    """The ledger of one site."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, entry: Entry) -> None:
        """Write a line; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        with open(self.path, "a", encoding="utf-8") as file:
            if self._torn():
                file.write("\n")
            file.write(json.dumps(asdict(entry)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _torn(self) -> bool:
        """Tell whether the last line has no end: the power went while it was written."""
        content = self.path.read_bytes()[-1:]
        return content not in (b"", b"\n")

    def entries(self, package: str | None = None) -> list[Entry]:
        """Return the lines, oldest first; one that a power cut tore is left out."""
        if not self.path.exists():
            return []
        found = [_entry(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [one for one in found if one is not None and package in (None, one.package)]

    def history(self, package: str) -> list[tuple[float, float, int]]:
        """Return (noise, rate, steps) of every private round of a package."""
        return [(one.noise, one.rate, one.steps) for one in self.entries(package) if one.steps and one.noise]

    def epsilon(self, package: str) -> float:
        """Return what a package's rounds have cost so far."""
        return max((one.epsilon for one in self.entries(package)), default=0.0)

    def learned_at(self, package: str, but: str = "") -> datetime | None:
        """Return when the last update of a package left, in another cycle than `but`: cases kept since are new."""
        updates = [one for one in self.entries(package) if one.what == "update" and one.cycle != but]
        return datetime.fromisoformat(updates[-1].at) if updates else None


def _entry(line: str) -> Entry | None:
    try:
        return Entry(**json.loads(line))
    except (ValueError, TypeError):
        return None

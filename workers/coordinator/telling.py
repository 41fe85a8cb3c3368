"""What the lineage says, as records for people and programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from workers.coordinator.lineage import Lineage, packages_with_lineage


def told_of(data_dir: Path, package: str = "") -> list[dict[str, Any]]:
    """Return every cycle with its rounds, oldest first."""
    found = []
    for name in [package] if package else packages_with_lineage(data_dir):
        lineage = Lineage(data_dir, name)
        for cycle in lineage.cycles():
            told = asdict(cycle)
            told["cycle"] = told.pop("id")
            found.append(told | {"rounds": [asdict(one) for one in lineage.rounds(cycle.id)]})
    return found

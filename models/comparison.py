"""Two versions of a package on the same studies: how far apart are they? Masks and records in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Frames = Mapping[Any, npt.NDArray[np.bool_]]
Masks = Mapping[str, Frames]  # segment name → place of a frame → its pixels
Records = Sequence[Mapping[str, Any]]  # findings as the catalogue keeps them


def dice(one: Frames, two: Frames) -> float:
    """Return the Dice coefficient of two segments given frame by frame; a frame that is not there is empty."""
    both = sum(int((one[place] & two[place]).sum()) for place in one.keys() & two.keys())
    total = sum(int(frame.sum()) for segment in (one, two) for frame in segment.values())
    return 2.0 * both / total if total else 1.0


def compared(findings_a: Records, masks_a: Masks, findings_b: Records, masks_b: Masks) -> dict[str, Any]:
    """Return Dice by segment, differences of every measurement, and what only one of them found."""
    a, b = ({one["name"]: one for one in found} for found in (findings_a, findings_b))
    names = sorted(a.keys() | b.keys())
    return {
        "dice": {name: round(dice(masks_a.get(name, {}), masks_b.get(name, {})), 5)
                 for name in sorted(masks_a.keys() | masks_b.keys())},
        "differences": {name: differences(a[name], b[name]) for name in names if name in a and name in b},
        "present": {name: [is_present(a.get(name)), is_present(b.get(name))] for name in names},
    }  # fmt: skip


def is_present(finding: Mapping[str, Any] | None) -> bool:
    """Return whether a finding was reported as there."""
    return finding is not None and bool(finding.get("present", True))


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return by measurement: value of a, value of b, unit."""
    values = {one["name"]: one for one in b["measurements"]}
    found = {
        one["name"]: [one["value"], values[one["name"]]["value"], one["unit"]]
        for one in a["measurements"]
        if one["name"] in values
    }
    if a.get("probability") is not None and b.get("probability") is not None:
        found["probability"] = [a["probability"], b["probability"], "1"]
    return found


def summary(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of many studies: by finding mean Dice, mean and largest difference, flips and kappa."""
    names = sorted({name for one in comparisons for name in one["present"]})
    return {
        "studies": len(comparisons),
        "findings": {name: of_finding(name, comparisons) for name in names},
        "flips": sum(a != b for one in comparisons for a, b in one["present"].values()),
        "kappa": kappa([tuple(pair) for one in comparisons for pair in one["present"].values()]),
    }


def of_finding(name: str, comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of one finding over all studies."""
    overlaps = [one["dice"][name] for one in comparisons if name in one["dice"]]
    pairs = [tuple(one["present"].get(name, (False, False))) for one in comparisons]
    measured: dict[str, list[tuple[float, str]]] = {}
    for one in comparisons:
        for what, (a, b, unit) in one["differences"].get(name, {}).items():
            measured.setdefault(what, []).append((a - b if one.get("turned") else b - a, unit))
    return {
        "dice": round(float(np.mean(overlaps)), 4) if overlaps else None,
        "lowest_dice": round(min(overlaps), 4) if overlaps else None,
        "flips": sum(a != b for a, b in pairs),
        "kappa": kappa(pairs),
        "differences": {
            what: {
                "mean": round(float(np.mean([d for d, _ in found])), 4),
                "largest": round(largest([d for d, _ in found]), 4),
                "unit": found[0][1],
            }
            for what, found in measured.items()
        },
    }


def largest(differences: Sequence[float]) -> float:
    """Return the difference that is farthest from zero."""
    return max(differences, key=lambda one: abs(one))


def kappa(pairs: Sequence[tuple[bool, ...]]) -> float | None:
    """Return Cohen's kappa of two readers who say yes or no; None where both always say the same one thing."""
    if not pairs:
        return None
    agreed = sum(a == b for a, b in pairs) / len(pairs)
    yes_a, yes_b = (sum(one[n] for one in pairs) / len(pairs) for n in (0, 1))
    chance = yes_a * yes_b + (1 - yes_a) * (1 - yes_b)
    return round((agreed - chance) / (1 - chance), 4) if chance < 1 else None

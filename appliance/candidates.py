"""Which series a package can read, and how well: requirement by requirement, with a sentence or a score.

A pure decision on attributes and geometry. Geometry and coded attributes decide; descriptions only rank.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.errors import StudyUnsuitable
from appliance.geometry import Stack, over_time, stack
from appliance.study import Condition, SeriesRequirement, SeriesSummary

ROUNDING_MM = 1e-3
SEARCHED = 64  # characters of a value: as many as the catalogue keeps of one


@dataclass(frozen=True)
class Candidate:
    """One series looked at for one input: its score, or why it cannot be read."""

    input: str
    series_instance_uid: str
    score: float = 0.0
    reason: str = ""
    chosen: bool = False


def number(value: str) -> float | None:
    """Return the number a DICOM text stands for, or None."""
    try:
        return float(value)
    except ValueError:
        return None


def texts(series: SeriesSummary, keyword: str) -> list[str]:
    """Return the values of an attribute; an absent or empty one has none."""
    values = series.attributes.get(keyword, [])
    return [one for one in ([values] if isinstance(values, str) else values) if one != ""]


def unsuitable(series: SeriesSummary, need: SeriesRequirement) -> str:
    """Return why the package cannot read this series, or "" when it can."""
    if series.modality != need.modality:
        return f"modality is {series.modality or 'absent'}, the package reads {need.modality}"
    wrong = series.sop_class_uids - set(need.sop_class_uids)
    if wrong:
        return f"SOP class {min(wrong)} is not one that the package reads"
    ruled_out = set(texts(series, "ImageType")) & set(need.exclude_image_types)
    if ruled_out:
        return f"Image Type holds {min(ruled_out)}, which the package does not read"
    unmet = next((fault for one in need.require if (fault := _unmet(series, one))), "")
    return unmet or _misplaced(series, need) or _too_low(series, need)


def _unmet(series: SeriesSummary, condition: Condition) -> str:
    values = texts(series, condition.keyword)
    if condition.absent:
        return f"{condition.keyword} is there, the package reads series without" if values else ""
    if not values:
        return f"{condition.keyword} is absent, the package needs it"
    if any(_holds(value, condition) for value in values):
        return ""
    return f"{condition.keyword} is {' or '.join(values)}, the package takes {_wanted(condition)}"


def _holds(value: str, condition: Condition) -> bool:
    if condition.any_of and value.strip().upper() not in {one.upper() for one in condition.any_of}:
        return False
    if condition.min is None and condition.max is None:
        return True
    found = number(value)
    if found is None:
        return False
    return (condition.min is None or found >= condition.min) and (condition.max is None or found <= condition.max)


def _wanted(condition: Condition) -> str:
    limits = [f"at least {condition.min:g}"] if condition.min is not None else []
    limits += [f"at most {condition.max:g}"] if condition.max is not None else []
    return " ".join([" or ".join(condition.any_of), " and ".join(limits)]).strip()


def _misplaced(series: SeriesSummary, need: SeriesRequirement) -> str:
    try:
        found = _volumes(series, need)
    except StudyUnsuitable as fault:
        return str(fault)
    return _geometry_fault(found[0], len(found[0].order), need)


def _volumes(series: SeriesSummary, need: SeriesRequirement) -> Sequence[Stack]:
    if need.volumes == "all":
        return over_time(series.geometry, min_slices=need.min_slices, min_volumes=need.min_volumes)
    return [stack(series.geometry, min_slices=need.min_slices)]


def _geometry_fault(found: Stack, count: int, need: SeriesRequirement) -> str:
    faults = [_outside("slice spacing", found.slice_spacing_mm, need.slice_spacing_mm)]
    faults += [_outside("pixel spacing", s, need.pixel_spacing_mm) for s in found.pixel_spacing_mm]
    shortest, longest = min(found.extent_mm), max(found.extent_mm)
    if need.min_extent_mm is not None and shortest < need.min_extent_mm - ROUNDING_MM:
        faults.append(
            f"the field of view is {shortest:.0f} mm along its shortest axis, "
            f"the package needs {need.min_extent_mm:g} mm"
        )
    if need.max_extent_mm is not None and longest > need.max_extent_mm + ROUNDING_MM:
        faults.append(
            f"the field of view is {longest:.0f} mm along its longest axis, the package takes {need.max_extent_mm:g} mm"
        )
    if need.max_slices is not None and count > need.max_slices:
        faults.append(f"{count} slices, the package takes at most {need.max_slices}")
    return next((fault for fault in faults if fault), "")


def _outside(name: str, value: float, allowed: tuple[float, float] | None) -> str:
    if allowed is None or allowed[0] - ROUNDING_MM <= value <= allowed[1] + ROUNDING_MM:
        return ""
    return f"{name} is {value:.2f} mm, the package takes {allowed[0]:g} to {allowed[1]:g} mm"


def _too_low(series: SeriesSummary, need: SeriesRequirement) -> str:
    found = score(series, need)
    if need.min_score is None or found >= need.min_score:
        return ""
    return f"its attributes score {found:g}, the package asks for {need.min_score:g}"


def score(series: SeriesSummary, need: SeriesRequirement) -> float:
    """Return how well the attributes fit: the sum over all preferences that hold."""
    held = [
        one.score
        for one in need.prefer
        if any(re.search(one.pattern, value[:SEARCHED], re.IGNORECASE) for value in texts(series, one.keyword))
    ]
    return float(sum(held))


def fineness(series: SeriesSummary, need: SeriesRequirement) -> tuple[float, str]:
    """Return what decides between equal scores: the smaller voxel, then the UID."""
    found = _volumes(series, need)[0]
    voxel = found.slice_spacing_mm * found.pixel_spacing_mm[0] * found.pixel_spacing_mm[1]
    return round(voxel, 3), series.series_instance_uid

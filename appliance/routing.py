"""Which studies go to which package, and why not. A pure decision on attributes and geometry.

First the route's `match` (attributes of a series), then the package's own requirements on the series. A series
is never chosen by its description alone. Every study × route ends with an outcome and a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from appliance.errors import StudyUnsuitable
from appliance.geometry import Stack, stack
from appliance.study import SeriesRequirement, SeriesSummary, StudySummary

Wanted = object  # str, number, list of these, or {"min", "max", "regex"}


@dataclass(frozen=True)
class RouteDecision:
    """What a route makes of a study: outcome `job`, `not_routed`, `unsuitable` or `failed`, with the reason."""

    outcome: str
    reason: str = ""
    series_instance_uid: str = ""


def _one_matches(value: str, wanted: object) -> bool:
    if isinstance(wanted, Mapping):
        if "regex" in wanted and not re.search(str(wanted["regex"]), value):
            return False
        return _in_range(value, wanted)
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        number = _number(value)
        return number is not None and number == wanted
    return value.strip().upper() == str(wanted).strip().upper()


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _in_range(value: str, wanted: Mapping[str, object]) -> bool:
    if "min" not in wanted and "max" not in wanted:
        return True
    number = _number(value)
    if number is None:
        return False
    low, high = wanted.get("min"), wanted.get("max")
    return (low is None or number >= float(str(low))) and (high is None or number <= float(str(high)))


def attribute_matches(values: str | Sequence[str], wanted: object) -> bool:
    """Return whether any of an attribute's values equals, is in, lies between or matches what is wanted."""
    present = [values] if isinstance(values, str) else list(values)
    choices = wanted if isinstance(wanted, list | tuple) else [wanted]
    return any(_one_matches(value, choice) for value in present for choice in choices)


def mismatch(series: SeriesSummary, match: Mapping[str, object]) -> str:
    """Return why the series does not match, or "" when it does. Texts hold keywords and coded values only."""
    for keyword, wanted in match.items():
        values = series.attributes.get(keyword)
        if values is None or values == "":
            return f"{keyword} is absent, the route wants {_show(wanted)}"
        if not attribute_matches(values, wanted):
            return f"{keyword} is {_show(values)}, the route wants {_show(wanted)}"
    return ""


def _show(value: object) -> str:
    if isinstance(value, list | tuple):
        return " or ".join(str(v) for v in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)


def _outside(name: str, value: float, allowed: tuple[float, float] | None) -> str:
    if allowed is None or allowed[0] - 1e-3 <= value <= allowed[1] + 1e-3:
        return ""
    return f"{name} is {value:.2f} mm, the package takes {allowed[0]:g} to {allowed[1]:g} mm"


def _geometry_fault(found: Stack, count: int, need: SeriesRequirement) -> str:
    faults = [_outside("slice spacing", found.slice_spacing_mm, need.slice_spacing_mm)]
    faults += [_outside("pixel spacing", s, need.pixel_spacing_mm) for s in found.pixel_spacing_mm]
    if need.min_extent_mm is not None and min(found.extent_mm) < need.min_extent_mm - 1e-3:
        faults.append(
            f"the field of view is {min(found.extent_mm):.0f} mm along its shortest axis, "
            f"the package needs {need.min_extent_mm:g} mm"
        )
    if need.max_slices is not None and count > need.max_slices:
        faults.append(f"{count} slices, the package takes at most {need.max_slices}")
    return next((fault for fault in faults if fault), "")


def unsuitable(series: SeriesSummary, need: SeriesRequirement) -> str:
    """Return why the package cannot read this series, or "" when it can."""
    if series.modality != need.modality:
        return f"modality is {series.modality or 'absent'}, the package reads {need.modality}"
    wrong = series.sop_class_uids - set(need.sop_class_uids)
    if wrong:
        return f"SOP class {min(wrong)} is not one that the package reads"
    types = series.attributes.get("ImageType", [])
    ruled_out = set([types] if isinstance(types, str) else types) & set(need.exclude_image_types)
    if ruled_out:
        return f"Image Type holds {min(ruled_out)}, which the package does not read"
    try:
        found = stack(series.geometry, min_slices=need.min_slices)
    except StudyUnsuitable as fault:
        return str(fault)
    return _geometry_fault(found, len(series.geometry), need)


def rank(series: SeriesSummary, need: SeriesRequirement) -> tuple[int, float, str]:
    """Return the sort key of a candidate: preferred attributes first, then the finer grid; the UID breaks ties."""
    score = 0
    for keyword, pattern in need.prefer:
        values = series.attributes.get(keyword, "")
        present = [values] if isinstance(values, str) else values
        score += any(re.search(pattern, value, re.IGNORECASE) for value in present)
    found = stack(series.geometry)
    voxel = found.slice_spacing_mm * found.pixel_spacing_mm[0] * found.pixel_spacing_mm[1]
    return (-score, round(voxel, 3), series.series_instance_uid)


def _nearest_reason(reasons: Mapping[str, str]) -> str:
    """Return one sentence for all series: the reasons, most frequent first."""
    counts: dict[str, int] = {}
    for reason in reasons.values():
        counts[reason] = counts.get(reason, 0) + 1
    ordered = sorted(counts, key=lambda text: (-counts[text], text))
    return "; ".join(text if counts[text] == 1 else f"{text} ({counts[text]} series)" for text in ordered[:3])


def decide(study: StudySummary, match: Mapping[str, object], need: SeriesRequirement) -> RouteDecision:
    """Choose the series of `study` that the package reads under this route, or say why none."""
    if study.problem:
        return RouteDecision("failed", study.problem)
    images = [one for one in study.series if one.geometry]
    if not images:
        return RouteDecision("unsuitable", "the study holds no images")
    mismatches = {one.series_instance_uid: mismatch(one, match) for one in images}
    matching = [one for one in images if not mismatches[one.series_instance_uid]]
    if not matching:
        return RouteDecision("not_routed", f"no series matches the route: {_nearest_reason(mismatches)}")
    faults = {one.series_instance_uid: unsuitable(one, need) for one in matching}
    fit = [one for one in matching if not faults[one.series_instance_uid]]
    if not fit:
        return RouteDecision("unsuitable", f"no series fits the package: {_nearest_reason(faults)}")
    best = min(fit, key=lambda one: rank(one, need))
    return RouteDecision("job", "", best.series_instance_uid)

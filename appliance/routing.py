"""Which studies go to which package, and why not. A pure decision on attributes and geometry.

First the route's `match` (attributes of a series), then the package's own requirements on the series of each of its
inputs (candidates.py). Every study × route ends with an outcome and a sentence.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from appliance.candidates import Candidate, fineness, number, score, texts, unsuitable
from appliance.study import SeriesRequirement, SeriesSummary, StudySummary

Wanted = object  # str, number, list of these, or {"min", "max", "regex"}
MOST_COMBINATIONS = 20_000  # of series that are tried for several inputs


@dataclass(frozen=True)
class RouteDecision:
    """What a route makes of a study: outcome `job`, `not_routed`, `unsuitable` or `failed`, with the reason."""

    outcome: str
    reason: str = ""
    series: tuple[tuple[str, str], ...] = ()  # (input, Series Instance UID); the first gives the grid
    candidates: tuple[Candidate, ...] = ()  # every series that was looked at, for each input

    @property
    def series_instance_uid(self) -> str:
        """Series that gives the grid, "" where there is no job."""
        return self.series[0][1] if self.series else ""


def _one_matches(value: str, wanted: object) -> bool:
    if isinstance(wanted, Mapping):
        if "regex" in wanted and not re.search(str(wanted["regex"]), value):
            return False
        return _in_range(value, wanted)
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        found = number(value)
        return found is not None and found == wanted
    return value.strip().upper() == str(wanted).strip().upper()


def _in_range(value: str, wanted: Mapping[str, object]) -> bool:
    if "min" not in wanted and "max" not in wanted:
        return True
    found = number(value)
    if found is None:
        return False
    low, high = wanted.get("min"), wanted.get("max")
    return (low is None or found >= float(str(low))) and (high is None or found <= float(str(high)))


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


def _nearest_reason(reasons: Sequence[str]) -> str:
    """Return one sentence for all series: the reasons, most frequent first."""
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    ordered = sorted(counts, key=lambda text: (-counts[text], text))
    return "; ".join(text if counts[text] == 1 else f"{text} ({counts[text]} series)" for text in ordered[:3])


def decide(study: StudySummary, match: Mapping[str, object], inputs: Mapping[str, SeriesRequirement]) -> RouteDecision:
    """Choose the series of `study` that the package reads under this route, one for each input, or say why none."""
    if study.problem:
        return RouteDecision("failed", study.problem)
    images = [one for one in study.series if one.geometry]
    if not images:
        return RouteDecision("unsuitable", "the study holds no images")
    mismatches = {one.series_instance_uid: mismatch(one, match) for one in images}
    matching = [one for one in images if not mismatches[one.series_instance_uid]]
    if not matching:
        return RouteDecision("not_routed", f"no series matches the route: {_nearest_reason(list(mismatches.values()))}")
    return _choose(matching, inputs)


def _choose(series: Sequence[SeriesSummary], inputs: Mapping[str, SeriesRequirement]) -> RouteDecision:
    looked_at = {name: [_candidate(one, name, need) for one in series] for name, need in inputs.items()}
    everything = tuple(one for candidates in looked_at.values() for one in candidates)
    for name, candidates in looked_at.items():
        if all(one.reason for one in candidates):
            said = _nearest_reason([one.reason for one in candidates])
            where = "" if len(inputs) == 1 else f" as {name}"
            return RouteDecision("unsuitable", f"no series fits the package{where}: {said}", candidates=everything)
    best = _best_combination({one.series_instance_uid: one for one in series}, inputs, looked_at)
    if best is None:
        said = f"no {len(inputs)} different series of one Frame of Reference fit the inputs {', '.join(inputs)}"
        return RouteDecision("unsuitable", said, candidates=everything)
    chosen = tuple(zip(inputs, best, strict=True))
    marked = tuple(replace(one, chosen=(one.input, one.series_instance_uid) in chosen) for one in everything)
    return RouteDecision("job", "", chosen, marked)


def _candidate(series: SeriesSummary, name: str, need: SeriesRequirement) -> Candidate:
    reason = unsuitable(series, need)
    return Candidate(name, series.series_instance_uid, 0.0 if reason else score(series, need), reason)


def _best_combination(
    series: Mapping[str, SeriesSummary],
    inputs: Mapping[str, SeriesRequirement],
    looked_at: Mapping[str, Sequence[Candidate]],
) -> tuple[str, ...] | None:
    """Return the Series Instance UIDs, one an input, with the highest score in all; the finer grids among equals."""
    ranked = []
    for name, need in inputs.items():
        fit = [one for one in looked_at[name] if not one.reason]
        order = {one: (-one.score, *fineness(series[one.series_instance_uid], need)) for one in fit}
        ranked.append(sorted(((order[one], one.series_instance_uid) for one in fit), key=lambda pair: pair[0]))
    combinations = itertools.islice(itertools.product(*ranked), MOST_COMBINATIONS)
    possible = [
        (sum(rank[0] for rank, _ in several), [rank[1:] for rank, _ in several], tuple(uid for _, uid in several))
        for several in combinations
        if _go_together([series[uid] for _, uid in several])
    ]
    return min(possible)[2] if possible else None


def _go_together(several: Sequence[SeriesSummary]) -> bool:
    """Return whether these are different series which lie in one space."""
    if len(several) == 1:
        return True
    places = {tuple(texts(one, "FrameOfReferenceUID")) for one in several}
    different = len({one.series_instance_uid for one in several}) == len(several)
    return different and len(places) == 1 and () not in places

"""What can never work is refused when a package is read, not when a study waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from models.bundle.names import CONTRASTS
from models.declaration import Declaration
from models.inputs import Preference
from models.outputs import channels_needed
from models.registry import ZOO

Change = Callable[[dict[str, Any]], object]


def told(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ZOO / name / "package.json").read_text())
    return found


def many_segments(declared: dict[str, Any]) -> None:
    outputs = declared["outputs"]
    outputs["segments"] = [dict(outputs["segments"][1], number=n) for n in range(1, 201)]
    outputs["candidates"]["max_count"] = 56


def cleaning(op: str, **more: Any) -> Change:
    return lambda one: one["postprocess"].append({"op": op, **more})


def value_step(**step: Any) -> Change:
    return lambda one: one["preprocess"].__setitem__(2, step)


def need(**changes: Any) -> Change:
    return lambda one: one["inputs"][0]["requirement"].update(changes)


REFUSED: list[tuple[str, Change, str]] = [
    ("brain-structures", value_step(op="clip", lower=9, upper=1), "clip needs lower < upper"),
    ("brain-structures", value_step(op="clip_percentile", lower=99, upper=1), "clip_percentile needs lower < upper"),
    ("brain-structures", value_step(op="zscore", channels=[1]), "zscore: channel 1, but inputs give 0 to 0"),
    ("brain-structures", lambda one: one["inference"].update(roi=[96, 96, 1]), "say mode slices"),
    ("head-bleed", lambda one: one["outputs"].update(classes=one["outputs"]["classes"] * 2, activation="sigmoid"),
     "sigmoid needs two classes"),
    ("head-bleed", lambda one: one["outputs"].update(
        classes=one["outputs"]["classes"][:1], positive=0, activation="sigmoid"), "sigmoid needs two classes"),
    ("lung-nodule", many_segments, "more segments and candidates than"),
    ("lung-nodule", cleaning("remove_small", segments=[2], min_volume_ml=1), "remove_small: candidates are found"),
    ("lung-nodule", cleaning("largest_component", segments=[1, 2]), "largest_component: candidates are found"),
    ("lung-nodule", lambda one: one["outputs"]["segments"][1].update(min_volume_ml=1), "candidates have min_diameter"),
    ("hippocampus", lambda one: one["locator"].update(package="hippocampus@0.1.0"), "names this package itself"),
    ("hippocampus", lambda one: one["report"].update(probability_map=1), "detection without locator"),
    ("lung-nodule", lambda one: one["report"].update(probability_map=3), "segment that is not there"),
    ("brain-structures", need(slice_spacing_mm=[5, 1]), "slice_spacing_mm: the lower limit is above"),
    ("brain-structures", need(pixel_spacing_mm=[5, 1]), "pixel_spacing_mm: the lower limit is above"),
    ("brain-structures", need(min_slices=9, max_slices=8), "min_slices and max_slices: the lower"),
    ("brain-structures", need(min_extent_mm=9, max_extent_mm=8), "min_extent_mm and max_extent_mm: the lower"),
    ("brain-structures", need(require=[{"keyword": "EchoTime", "min": 2, "max": 1}]), "EchoTime: the lower limit"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_a_contradiction_is_refused(name: str, change: Change, words: str) -> None:
    declared = told(name)
    Declaration.model_validate_json(json.dumps(declared))
    change(declared)
    with pytest.raises(ValidationError, match=words):
        Declaration.model_validate_json(json.dumps(declared))


NEEDED = {"brain-structures": 8, "lung-nodule": 3, "head-bleed": 2, "cardiac-lv": 3, "hippocampus": 3}


@pytest.mark.parametrize(("name", "channels"), NEEDED.items())
def test_outputs_say_how_many_channels_they_need(name: str, channels: int) -> None:
    assert channels_needed(Declaration.model_validate_json(json.dumps(told(name))).outputs) == channels


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a*)*b", "(?:a+){9}", "(a|aa)+$", "(a?)+$", "(?=a+)b", r"(a)\1", ".*.*.*.*x", "(", "(?:(?:a+)b)*"],
)
def test_a_pattern_that_may_search_for_hours_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match=r"regular expression|search for hours|holds more than"):
        Preference(keyword="SeriesDescription", pattern=pattern)


@pytest.mark.parametrize(
    "pattern",
    ["t1", r"sax|short.?axis|\bsa\b", "^(B[3-4]|I[3-4]|FC0)", "t1.*post", "(mp)?rage", r"\d{2,3}", "(a|b.*)c",
     *(one for _, patterns in CONTRASTS.values() for one, _ in patterns)],
)  # fmt: skip
def test_a_plain_pattern_is_taken(pattern: str) -> None:
    assert Preference(keyword="SeriesDescription", pattern=pattern).pattern == pattern

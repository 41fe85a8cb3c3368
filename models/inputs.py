"""What a package reads: one series an input, each a channel of the network; and where in it to look.

A series is chosen by geometry and attributes. Free text (descriptions) may raise a candidate's score and never
decides alone: it is refused as a condition.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from appliance.study import Condition as SeriesCondition
from appliance.study import Preference as SeriesPreference
from appliance.study import SeriesRequirement
from appliance.volume import Volume
from models.closed import Closed, Name, Positive

FREE_TEXT = frozenset({"SeriesDescription", "StudyDescription", "ProtocolName", "PerformedProcedureStepDescription"})


MOST_REPEATS = 3  # "*", "+", "{2,}" … in a pattern; more of them, or one within another, may search for hours
REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
PLAIN_PARTS = frozenset(
    {*REPEATS, "LITERAL", "NOT_LITERAL", "ANY", "IN", "AT", "BRANCH", "SUBPATTERN", "CATEGORY", "RANGE", "NEGATE"}
)


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
        parsed: Any = import_module("re._parser").parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    if _repeats(parsed, pattern) > MOST_REPEATS:
        raise ValueError(f"{pattern!r} repeats more than {MOST_REPEATS} parts; it may search for hours")
    return pattern


def _repeats(parsed: Any, pattern: str, within: bool = False) -> int:
    """Return how many parts of a parsed pattern repeat; ValueError for a repeat that holds another, or a choice."""
    found = 0
    for kind, value in parsed:
        name = str(kind)
        if name not in PLAIN_PARTS:
            raise ValueError(f"{pattern!r} holds more than letters, classes, choices and repeats")
        if within and (name in REPEATS or name == "BRANCH"):
            raise ValueError(f"{pattern!r} repeats a part that repeats or chooses itself; it may search for hours")
        if name in REPEATS:
            found += (value[1] > 1) + _repeats(value[2], pattern, within or value[1] > 1)
        elif name == "SUBPATTERN":
            found += _repeats(value[3], pattern, within)
        elif name == "BRANCH":
            found += max(_repeats(one, pattern, within) for one in value[1])
    return found


Keyword = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=64)]
Pattern = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_compiles)]


def rising(where: str, *limits: float | None) -> None:
    """Raise ValueError unless a lower limit stands before the upper one; null is no limit."""
    said = [one for one in limits if one is not None]
    if sorted(said) != said:
        raise ValueError(f"{where}: the lower limit is above the upper one")


class Condition(Closed):
    """What an attribute of the series must be: one of these values, within these limits, there at all, or absent."""

    keyword: Keyword
    any_of: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    present: bool = False
    absent: bool = False

    @model_validator(mode="after")
    def coded(self) -> Condition:
        """Refuse free text, and a condition that asks for nothing."""
        if self.keyword in FREE_TEXT:
            raise ValueError(f"{self.keyword} is free text: it may stand in `prefer`, never in `require`")
        if not (self.any_of or self.present or self.absent) and self.min is None and self.max is None:
            raise ValueError(f"the condition on {self.keyword} asks for nothing")
        rising(f"the condition on {self.keyword}", self.min, self.max)
        return self


class Preference(Closed):
    """Adds `score` to a candidate where the attribute matches the pattern (search, case ignored)."""

    keyword: Keyword
    pattern: Pattern
    score: float = Field(1.0, ge=-100, le=100)


class Requirement(Closed):
    """The fields of appliance.study.SeriesRequirement, one to one."""

    modality: str
    sop_class_uids: tuple[str, ...]
    min_slices: int = Field(1, ge=1)
    max_slices: int | None = Field(None, ge=1)
    slice_spacing_mm: tuple[Positive, Positive] | None = None
    pixel_spacing_mm: tuple[Positive, Positive] | None = None
    min_extent_mm: Positive | None = None
    max_extent_mm: Positive | None = None
    exclude_image_types: tuple[str, ...] = ()
    require: tuple[Condition, ...] = ()
    prefer: tuple[Preference, ...] = ()
    min_score: float | None = None
    volumes: Literal["one", "all"] = "one"
    min_volumes: int = Field(1, ge=1)

    @model_validator(mode="after")
    def can_be_met(self) -> Requirement:
        """Refuse limits that no series can keep to."""
        rising("slice_spacing_mm", *(self.slice_spacing_mm or ()))
        rising("pixel_spacing_mm", *(self.pixel_spacing_mm or ()))
        rising("min_slices and max_slices", self.min_slices, self.max_slices)
        rising("min_extent_mm and max_extent_mm", self.min_extent_mm, self.max_extent_mm)
        return self

    def as_series_requirement(self) -> SeriesRequirement:
        """Return the same requirement as routing reads it."""
        fields = self.model_dump(exclude={"require", "prefer"})
        return SeriesRequirement(
            **fields,
            require=tuple(SeriesCondition(**one.model_dump()) for one in self.require),
            prefer=tuple(SeriesPreference(**one.model_dump()) for one in self.prefer),
        )


class Input(Closed):
    """One series that the package reads; inputs are the network's channels in this order, the first gives the grid."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=32)]
    requirement: Requirement


class Region(Closed):
    """A box as shares of the located structure's box (less 1 % at each face), towards Right, Anterior, Superior.

    0 is the box's left, posterior, inferior face, 1 the opposite one; a region may reach beyond.
    """

    name: Name
    low: tuple[float, float, float]
    high: tuple[float, float, float]

    @model_validator(mode="after")
    def has_volume(self) -> Region:
        """Refuse an empty box."""
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"region {self.name!r} is empty")
        return self


class Locator(Closed):
    """Another package that finds where this one is to look: it runs first, on the same series.

    The package named here must be installed in exactly this version. A series smaller than `above_extent_mm` along
    any axis is a crop already and read whole.
    """

    package: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*@\d+\.\d+\.\d+$")]
    segments: tuple[int, ...] = Field(min_length=1)
    min_volume_ml: Positive
    above_extent_mm: Positive
    regions: tuple[Region, ...] = Field(min_length=1, max_length=8)

    def is_needed(self, volume: Volume) -> bool:
        """Return whether the volume is larger than a crop along every axis."""
        sides = zip(volume.shape, volume.spacing_mm, strict=True)
        return all(size * spacing > self.above_extent_mm for size, spacing in sides)

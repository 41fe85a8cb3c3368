"""Studies, series and what a package asks of a series. Values only: no file, no database, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Condition:
    """What an attribute of a series must be: one of these values, within these limits, there at all, or absent."""

    keyword: str
    any_of: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    present: bool = False
    absent: bool = False


@dataclass(frozen=True)
class Preference:
    """Adds `score` to a candidate where the attribute matches the regular expression."""

    keyword: str
    pattern: str
    score: float = 1.0


@dataclass(frozen=True)
class SeriesRequirement:
    """What a package needs of one series it reads; None means "does not matter"."""

    modality: str
    sop_class_uids: tuple[str, ...]
    min_slices: int = 1
    max_slices: int | None = None
    slice_spacing_mm: tuple[float, float] | None = None  # allowed distance of slice centres
    pixel_spacing_mm: tuple[float, float] | None = None  # allowed in-plane spacing
    min_extent_mm: float | None = None  # smallest field of view along each axis
    max_extent_mm: float | None = None  # largest one
    exclude_image_types: tuple[str, ...] = ()  # Image Type values that rule a series out
    require: tuple[Condition, ...] = ()  # all of them
    prefer: tuple[Preference, ...] = ()  # ranks candidates
    min_score: float | None = None  # a candidate below it is not read
    volumes: str = "one"  # or "all": a sequence of volumes over time
    min_volumes: int = 1


@dataclass(frozen=True)
class FrameGeometry:
    """Where one image plane lies (PS3.3 C.7.6.2); None where the instance does not say."""

    sop_instance_uid: str
    rows: int
    columns: int
    position: tuple[float, float, float] | None  # centre of the first voxel, LPS mm
    orientation: tuple[float, ...] | None  # row then column direction cosines, 6 numbers
    pixel_spacing: tuple[float, float] | None  # between rows, between columns, mm
    frames: int = 1
    frame: int | None = None  # 1-based, for a frame of a multi-frame instance
    temporal_position: str = ""  # trigger time or temporal position: orders several planes at one place, has no unit
    trigger_ms: float | None = None  # time after the R-wave, where the image says it
    problem: str = ""  # why the header could not be understood, if so


@dataclass(frozen=True)
class SeriesSummary:
    """One series as routing sees it: attributes of its first image, geometry of all."""

    series_instance_uid: str
    modality: str
    sop_class_uids: frozenset[str]
    attributes: dict[str, str | list[str]]  # keyword → text value(s)
    geometry: tuple[FrameGeometry, ...]
    instances: tuple[tuple[str, str], ...] = ()  # sorted (SOP Instance UID, content digest)


@dataclass(frozen=True)
class StudySummary:
    """One study as routing sees it."""

    study_instance_uid: str
    series: tuple[SeriesSummary, ...]
    problem: str = ""  # why no result may be made of it at all (mixed patients, conflicting pixels)
    attributes: dict[str, str | list[str]] = field(default_factory=dict)

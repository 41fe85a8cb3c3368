"""What a network's answer means: segments, candidates, classes, numbers, or a beating heart. All of it coded.

Channel 0 of logits is background unless `activation` is "sigmoid"; then every channel is a region by itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.closed import Closed, CodeValue, Colour, Name, Positive, Share

Measured = Literal["volume", "diameter", "mean", "standard_deviation", "minimum", "maximum"]


class Segment(Closed):
    """One structure as a DICOM segment."""

    number: int = Field(ge=1, le=255)
    name: Name
    category: CodeValue  # Segmented Property Category, CID 7150
    type: CodeValue  # Segmented Property Type, CID 7151
    site: CodeValue | None = None
    laterality: Literal["left", "right"] | None = None
    rgb: Colour
    min_volume_ml: float = Field(0.0, ge=0)  # less than this is no finding
    measure: tuple[Measured, ...] = ("volume",)  # statistics are of the source's values (HU for a CT)


def in_order(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Return `segments`; ValueError unless they are numbered 1, 2, 3 …"""
    if [one.number for one in segments] != list(range(1, len(segments) + 1)):
        raise ValueError("outputs.segments must be numbered 1, 2, 3 … in order")
    return segments


class Segmentation(Closed):
    """A label map. "softmax": the largest class wins. "sigmoid": channel n − 1 is segment n where it exceeds
    `threshold`, a later segment over an earlier one (nested regions: the outermost first)."""

    kind: Literal["segmentation"]
    segments: tuple[Segment, ...] = Field(min_length=1)
    activation: Literal["softmax", "sigmoid"] = "softmax"
    threshold: Share = 0.5

    @model_validator(mode="after")
    def ordered(self) -> Segmentation:
        """Refuse segments out of order."""
        in_order(self.segments)
        return self


class Candidates(Closed):
    """Connected parts of one class of the label map, each a finding by itself with a score of 0…1."""

    segment: int = Field(ge=1)
    threshold: Share = 0.5  # probability above which a voxel belongs to a candidate
    score: Literal["peak", "mean"] = "peak"  # of the probability within the candidate
    min_score: Share = 0.5  # the operating point
    min_diameter_mm: Positive
    max_diameter_mm: Positive | None = None
    inside: int | None = None  # a candidate must touch this segment
    max_count: int = Field(20, ge=1, le=100)


class Detection(Closed):
    """Structures, and candidates with scores: the candidates are parts of the segment `candidates.segment`."""

    kind: Literal["detection"]
    segments: tuple[Segment, ...] = Field(min_length=1)
    activation: Literal["softmax"] = "softmax"
    candidates: Candidates

    @model_validator(mode="after")
    def ordered(self) -> Detection:
        """Refuse segments out of order, candidates of none, and more of them than there are labels."""
        in_order(self.segments)
        if not {self.candidates.segment, self.candidates.inside or 1} <= {one.number for one in self.segments}:
            raise ValueError("outputs.candidates names a segment that is not there")
        if len(self.segments) + self.candidates.max_count > 255:
            raise ValueError("outputs: more segments and candidates than a label map can hold (255)")
        if self.segments[self.candidates.segment - 1].min_volume_ml:
            raise ValueError("outputs.candidates: their segment has no min_volume_ml, candidates have min_diameter_mm")
        return self


class ClassValue(Closed):
    """One class of a classifier."""

    name: Name
    code: CodeValue


class Classification(Closed):
    """The probability of each class; `positive` at `threshold` or above is a finding.

    "softmax": classes exclude each other; "sigmoid": one channel, the probability of `positive`.
    Slices are joined by their largest or mean probability of `positive`.
    """

    kind: Literal["classification"]
    classes: tuple[ClassValue, ...] = Field(min_length=1)
    activation: Literal["softmax", "sigmoid"] = "softmax"
    positive: int = Field(ge=0)
    threshold: Share
    guard_band: Share = 0.01  # a probability this near to the threshold may fall on either side of it in parity
    join_slices: Literal["largest", "mean"] = "largest"
    site: CodeValue | None = None

    @model_validator(mode="after")
    def consistent(self) -> Classification:
        """Refuse a positive class that is not there, and more than one probability can tell apart."""
        if self.positive >= len(self.classes):
            raise ValueError("outputs.positive is no class")
        if self.activation == "sigmoid" and len(self.classes) != 2:
            raise ValueError("outputs.activation sigmoid needs two classes: positive, and what it is when it is not")
        return self


class NumberValue(Closed):
    """One number of a regression: the network's channel × factor + offset, in `unit` (UCUM)."""

    name: CodeValue
    unit: CodeValue
    factor: float = 1.0
    offset: float = 0.0
    lowest: float | None = None  # outside of these the result is refused, not clipped
    highest: float | None = None


class Regression(Closed):
    """Numbers, in the order of the network's channels."""

    kind: Literal["regression"]
    values: tuple[NumberValue, ...] = Field(min_length=1)
    site: CodeValue | None = None


class CineSegmentation(Closed):
    """A label map for each volume of a beat; volumes of `cavity` over time give EDV, ESV and ejection fraction."""

    kind: Literal["cine_segmentation"]
    segments: tuple[Segment, ...] = Field(min_length=1)
    cavity: int = Field(ge=1)
    activation: Literal["softmax"] = "softmax"

    @model_validator(mode="after")
    def ordered(self) -> CineSegmentation:
        """Refuse segments out of order and a cavity that is none."""
        in_order(self.segments)
        if self.cavity > len(self.segments):
            raise ValueError("outputs.cavity is no segment")
        return self


Outputs = Annotated[
    Segmentation | Detection | Classification | Regression | CineSegmentation, Field(discriminator="kind")
]


def channels_needed(outputs: Outputs) -> int:
    """Return how many channels the network's answer must have."""
    if isinstance(outputs, Regression):
        return len(outputs.values)
    if isinstance(outputs, Classification):
        return 1 if outputs.activation == "sigmoid" else len(outputs.classes)
    return len(outputs.segments) + (outputs.activation == "softmax")

"""package.json: what a package declares about itself, as closed and frozen values.

An unknown key, a wrong type or a value outside its range is refused. It must never import torch, onnx or
anything else that is slow: the command line and dispatch read packages too. Numbers carry their unit in the
name; axes of `spacing_mm`, `roi` are those that `orient` makes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

from appliance.finding import Code
from appliance.study import SeriesRequirement

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[Positive, Positive, Positive]
Text = Annotated[str, Field(min_length=1, max_length=4000)]


class Closed(BaseModel):
    """A value whose keys are all known and which never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lineage(Closed):
    """Where the weights come from: the package trained further, the federated round, the sites."""

    parent: str | None = None  # "id@version" or None
    round: int | None = None
    sites: int | None = None


class Architecture(Closed):
    """A name of models.networks.ARCHITECTURES and its arguments."""

    name: str
    kwargs: dict[str, JsonValue]


class Requirement(Closed):
    """The fields of appliance.study.SeriesRequirement, one to one."""

    modality: str
    sop_class_uids: tuple[str, ...]
    min_slices: int = Field(1, ge=1)
    max_slices: int | None = Field(None, ge=1)
    slice_spacing_mm: tuple[Positive, Positive] | None = None
    pixel_spacing_mm: tuple[Positive, Positive] | None = None
    min_extent_mm: Positive | None = None
    exclude_image_types: tuple[str, ...] = ()
    prefer: tuple[tuple[str, str], ...] = ()

    def as_series_requirement(self) -> SeriesRequirement:
        """Return the same requirement as routing reads it."""
        return SeriesRequirement(**self.model_dump())


class Input(Closed):
    """One series that the package reads."""

    name: str
    requirement: Requirement


class Orient(Closed):
    """Turn and flip axes so that they run towards `axcodes`, e.g. R-A-S; no interpolation."""

    op: Literal["orient"]
    axcodes: str = Field(pattern=r"^(?:[RL][AP][SI]|[RL][SI][AP]|[AP][RL][SI]|[AP][SI][RL]|[SI][RL][AP]|[SI][AP][RL])$")


class Resample(Closed):
    """Bring voxels to `spacing_mm`; "image-extent": the outer faces of both grids coincide (half-pixel)."""

    op: Literal["resample"]
    spacing_mm: Triple
    interpolation: Literal["linear"] = "linear"
    convention: Literal["image-extent"] = "image-extent"


class ClipPercentile(Closed):
    """Clip values to these percentiles of the whole volume."""

    op: Literal["clip_percentile"]
    lower: float = Field(ge=0, lt=100)
    upper: float = Field(gt=0, le=100)


class Clip(Closed):
    """Clip values to fixed limits, e.g. HU of a CT."""

    op: Literal["clip"]
    lower: float
    upper: float


class Scale(Closed):
    """Map the smallest value to `lowest` and the largest to `highest`, linearly."""

    op: Literal["scale"]
    lowest: float = 0.0
    highest: float = 1.0


Preprocess = Annotated[Orient | Resample | ClipPercentile | Clip | Scale, Field(discriminator="op")]


class Inference(Closed):
    """How the network is moved over the volume."""

    mode: Literal["sliding_window"]
    roi: tuple[int, int, int]
    overlap: float = Field(0.25, ge=0, lt=1)
    blend: Literal["gaussian", "constant"] = "gaussian"
    batch: int = Field(1, ge=1, le=64)


class CodeValue(Closed):
    """A coded concept; the scheme is SNOMED CT ("SCT") unless said."""

    value: str
    meaning: str
    scheme: str = "SCT"

    def as_code(self) -> Code:
        """Return the same concept as findings carry it."""
        return Code(self.value, self.scheme, self.meaning)


class Segment(Closed):
    """One class of the network's output as a DICOM segment."""

    number: int = Field(ge=1, le=255)
    name: str = Field(min_length=1, max_length=64)
    category: CodeValue  # Segmented Property Category, CID 7150
    type: CodeValue  # Segmented Property Type, CID 7151
    site: CodeValue | None = None
    rgb: tuple[int, int, int]
    min_volume_ml: float = Field(0.0, ge=0)  # less than this is no finding


class Outputs(Closed):
    """What the logits mean: class 0 is background, class n is segment n."""

    kind: Literal["segmentation"]
    segments: tuple[Segment, ...] = Field(min_length=1)


class ToSourceGrid(Closed):
    """Interpolate each class's logits linearly to the grid of the source, then take the largest."""

    op: Literal["to_source_grid"]
    method: Literal["linear_logits"] = "linear_logits"


class LargestComponent(Closed):
    """Keep, of these segments taken together, only the largest connected part (26 neighbours)."""

    op: Literal["largest_component"]
    segments: tuple[int, ...] = Field(min_length=1)


class RemoveSmall(Closed):
    """Remove connected parts of each of these segments that are smaller than `min_volume_ml`."""

    op: Literal["remove_small"]
    segments: tuple[int, ...] = Field(min_length=1)
    min_volume_ml: Positive


Postprocess = Annotated[ToSourceGrid | LargestComponent | RemoveSmall, Field(discriminator="op")]


class Precision(Closed):
    """The number formats in which the package may compute."""

    allowed: tuple[Literal["f32", "f16", "bf16"], ...] = Field(min_length=1)


class Parity(Closed):
    """How far an engine may be from the golden case."""

    max_abs_of_range: Positive  # largest logit difference, as a share of the golden logits' range
    min_dice: Share  # of each segment of at least 1000 voxels in the golden labels
    max_flips: Share  # share of voxels whose label differs


class Resources(Closed):
    """What one run may need."""

    memory_mb: int = Field(gt=0)
    timeout_s: int = Field(gt=0)


class Report(Closed):
    """How findings are reported."""

    template: Literal["TID1500"]
    key_slice: Literal["largest_area"]  # the slice a reader is taken to first


class Declaration(Closed):
    """All of package.json."""

    schema_version: Literal[1]
    id: str = Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=64)
    version: str = Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$")
    title: str = Field(min_length=1, max_length=40)  # the Series Description begins with it
    pathway: str
    created: AwareDatetime
    lineage: Lineage
    licence: str
    publisher: str
    architecture: Architecture
    inputs: tuple[Input, ...] = Field(min_length=1, max_length=1)
    preprocess: tuple[Preprocess, ...]
    inference: Inference
    outputs: Outputs
    postprocess: tuple[Postprocess, ...]
    precision: Precision
    parity: Parity
    resources: Resources
    report: Report
    intended_use: Text
    limits: Text
    not_for_clinical_use: bool

    @model_validator(mode="after")
    def consistent(self) -> Declaration:
        """Refuse orders and numbers that contradict each other."""
        once("preprocess", [step.op for step in self.preprocess])
        numbers = [segment.number for segment in self.outputs.segments]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError("outputs.segments must be numbered 1, 2, 3 … in order")
        if [step.op for step in self.preprocess[:2]] != ["orient", "resample"]:
            raise ValueError("preprocess must begin with orient, resample")
        if not self.postprocess or self.postprocess[0].op != "to_source_grid":
            raise ValueError("postprocess must begin with to_source_grid")
        for step in self.postprocess[1:]:
            if isinstance(step, ToSourceGrid) or not set(step.segments) <= set(numbers):
                raise ValueError(f"postprocess {step.op}: only once, and only of segments that exist")
        return self


def once(where: str, names: Sequence[str]) -> None:
    """Raise ValueError if a step occurs twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{where} has {twice[0]} more than once")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of package.json, as it is published in docs/."""
    return Declaration.model_json_schema()

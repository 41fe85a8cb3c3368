"""package.json: what a package declares about itself, as closed and frozen values.

An unknown key, a wrong type or a value outside its range is refused. It must never import torch, onnx or
anything else that is slow: the command line and dispatch read packages too. Numbers carry their unit in the name.
Its parts: inputs.py (what it reads), operations.py (what happens to voxels), outputs.py (what the answer means).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, JsonValue, model_validator

from models.closed import Closed, Positive, Share, Text
from models.inputs import Input, Locator
from models.operations import GRID_STEPS, Inference, Orient, Postprocess, Preprocess, Resample, Resize, ToSourceGrid
from models.outputs import Classification, Detection, Outputs, Regression, Segmentation

PrecisionName = Literal["f32", "f16", "bf16"]


class Lineage(Closed):
    """Where the weights come from: the package trained further, the federated round, the sites."""

    parent: str | None = None  # "id@version" or None
    parent_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    round: int | None = Field(None, ge=0)
    sites: int | None = Field(None, ge=1)


class Architecture(Closed):
    """A name of models.networks.ARCHITECTURES and its arguments."""

    name: str
    kwargs: dict[str, JsonValue]


class Precision(Closed):
    """The number formats in which the package may compute, and operators that stay f32 in a graph of halves."""

    allowed: tuple[PrecisionName, ...] = Field(min_length=1)
    keep_f32: tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$")], ...] = ()

    @model_validator(mode="after")
    def has_reference(self) -> Precision:
        """Refuse a package that may not compute as its reference does."""
        if "f32" not in self.allowed:
            raise ValueError("precision.allowed must hold f32, the reference's")
        return self


class Tolerance(Closed):
    """How far an engine of one precision may be from the golden case."""

    max_abs_of_range: Positive  # largest difference of raw outputs, as a share of the golden outputs' range
    min_dice: Share  # of each segment of at least 1000 voxels in the golden labels
    max_flips: Share  # share of voxels whose label differs
    max_probability: Share = 0.01  # largest difference of a class's probability


class Parity(Closed):
    """Tolerances by precision."""

    f32: Tolerance = Tolerance(max_abs_of_range=2e-3, min_dice=0.9995, max_flips=3e-4, max_probability=0.005)
    f16: Tolerance = Tolerance(max_abs_of_range=1e-2, min_dice=0.998, max_flips=2e-3, max_probability=0.01)
    bf16: Tolerance = Tolerance(max_abs_of_range=3e-2, min_dice=0.99, max_flips=1e-2, max_probability=0.02)

    def of(self, precision: str) -> Tolerance:
        """Return the tolerance of "f32", "f16" or "bf16"."""
        found: Tolerance = getattr(self, precision)
        return found


class Resources(Closed):
    """What one run may need."""

    memory_mb: int = Field(gt=0)  # until it was measured on this host
    timeout_s: int = Field(gt=0)


class Report(Closed):
    """How findings are reported."""

    template: Literal["TID1500"]
    key_slice: Literal["largest_area"]  # the slice a reader is taken to first
    probability_map: int | None = Field(None, ge=1)  # the segment whose probability a Parametric Map may show


class Declaration(Closed):
    """All of package.json."""

    schema_version: Literal[1]
    id: str = Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=64)
    version: str = Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$", max_length=32)
    title: str = Field(min_length=1, max_length=40)  # the Series Description begins with it
    pathway: str
    created: AwareDatetime
    lineage: Lineage
    licence: str
    publisher: str
    architecture: Architecture
    inputs: tuple[Input, ...] = Field(min_length=1, max_length=8)
    locator: Locator | None = None
    preprocess: tuple[Preprocess, ...] = Field(max_length=32)
    inference: Inference
    outputs: Outputs
    postprocess: tuple[Postprocess, ...] = Field(max_length=32)
    precision: Precision
    parity: Parity = Parity()
    resources: Resources
    report: Report
    hold_out_margin: Share = 0.01  # Dice that a successor may lose on a site's held-back cases, in any structure
    intended_use: Text
    limits: Text
    not_for_clinical_use: bool

    @property
    def mapped_segment(self) -> int | None:
        """The segment whose probability a Parametric Map shows: as declared, else the candidates' own."""
        own = self.outputs.candidates.segment if isinstance(self.outputs, Detection) else None
        return self.report.probability_map or own

    @model_validator(mode="after")
    def consistent(self) -> Declaration:
        """Refuse orders and numbers that contradict each other."""
        twice("inputs", [one.name for one in self.inputs])
        check_preprocess(self.preprocess, self.inference)
        check_postprocess(self)
        check_time(self)
        check_channels(self.preprocess, len(self.inputs))
        if self.locator and self.locator.package.partition("@")[0] == self.id:
            raise ValueError("locator: names this package itself")
        if self.locator and (self.outputs.kind != "segmentation" or len(self.inputs) > 1):
            raise ValueError("locator: only a segmentation of one input can look where another package found something")
        if self.locator and len(self.locator.regions) * len(self.outputs.segments) > 255:  # type: ignore[union-attr]
            raise ValueError("locator: more regions times segments than a label map can hold")
        check_probability_map(self)
        return self


def check_preprocess(steps: Sequence[Preprocess], inference: Inference) -> None:
    """Raise ValueError unless the steps begin with orient, change the grid before values, and fit `inference`."""
    if not steps or not isinstance(steps[0], Orient):
        raise ValueError("preprocess must begin with orient")
    grid = [step for step in steps if isinstance(step, GRID_STEPS)]
    if list(steps[: len(grid)]) != grid:
        raise ValueError("preprocess: steps that change the grid must stand before those that change values")
    twice("preprocess", [step.op for step in grid])
    resize = next((step for step in grid if isinstance(step, Resize)), None)
    if resize and any(isinstance(step, Resample) for step in grid):
        raise ValueError("preprocess has resample and resize: only one of them may set the grid")
    if inference.mode == "whole" and (resize is None or resize.size != inference.roi):
        raise ValueError("inference mode whole needs a resize to its roi in preprocess")
    if inference.mode == "sliding_window" and inference.roi[2] == 1:
        raise ValueError("inference: windows one voxel high are slices; say mode slices")


def check_channels(steps: Sequence[Preprocess], inputs: int) -> None:
    """Raise ValueError for a step on a channel that no input gives."""
    for step in steps:
        beyond = [one for one in getattr(step, "channels", ()) if one >= inputs]
        if beyond:
            raise ValueError(f"preprocess {step.op}: channel {beyond[0]}, but inputs give 0 to {inputs - 1}")


def check_postprocess(declared: Declaration) -> None:
    """Raise ValueError unless the steps fit the outputs: a label map goes back to the source first."""
    steps, outputs = declared.postprocess, declared.outputs
    if isinstance(outputs, Classification | Regression):
        if steps:
            raise ValueError(f"postprocess: a {outputs.kind} has none")
        return
    if not steps or not isinstance(steps[0], ToSourceGrid):
        raise ValueError("postprocess must begin with to_source_grid")
    numbers = {segment.number for segment in outputs.segments}
    for step in steps[1:]:
        if isinstance(step, ToSourceGrid) or not set(step.segments) <= numbers:
            raise ValueError(f"postprocess {step.op}: only once, and only of segments that exist")
        if isinstance(outputs, Detection) and outputs.candidates.segment in step.segments:
            raise ValueError(
                f"postprocess {step.op}: candidates are found from their segment's probability, which no cleaning "
                "changes; min_diameter_mm and min_score choose among them"
            )


def check_probability_map(declared: Declaration) -> None:
    """Raise ValueError for a probability map of what has none: only a segment of one label map has."""
    number = declared.report.probability_map
    if number is None:
        return
    if declared.locator or not isinstance(declared.outputs, Segmentation | Detection):
        raise ValueError("report.probability_map: only a segmentation or detection without locator has one")
    if number > len(declared.outputs.segments):
        raise ValueError("report.probability_map names a segment that is not there")


def check_time(declared: Declaration) -> None:
    """Raise ValueError unless exactly a cine segmentation reads all volumes of its one series."""
    over_time = any(one.requirement.volumes == "all" for one in declared.inputs)
    if over_time != (declared.outputs.kind == "cine_segmentation") or (over_time and len(declared.inputs) > 1):
        raise ValueError('outputs.kind cine_segmentation and one input with volumes = "all" belong together')


def twice(where: str, names: Sequence[str]) -> None:
    """Raise ValueError if a name occurs twice."""
    found = [name for name, count in Counter(names).items() if count > 1]
    if found:
        raise ValueError(f"{where} has {found[0]} more than once")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of package.json, as it is published in docs/package.schema.json."""
    return Declaration.model_json_schema()


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))

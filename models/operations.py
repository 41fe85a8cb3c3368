"""What happens to voxels before, in and after the network: named operations and nothing else.

One grid convention holds for all packages: voxels are boxes, a grid is the box of all of them, and resampling keeps
that box's outer faces ("image-extent", half-pixel rule). Axes of `spacing_mm`, `roi`, `size` are those that `orient`
makes. An operation on values works on each channel by itself, on all channels unless `channels` names some (from 0).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.closed import Closed, Positive

Size = Annotated[int, Field(ge=1, le=1024)]
Channels = tuple[Annotated[int, Field(ge=0, le=7)], ...]


class Orient(Closed):
    """Turn and flip axes so that they run towards `axcodes`, e.g. R-A-S; no interpolation.

    "acquired" takes columns, rows and slices as they are, for oblique planes that have a meaning of their own.
    """

    op: Literal["orient"]
    axcodes: str = Field(
        pattern=r"^(?:acquired|[RL][AP][SI]|[RL][SI][AP]|[AP][RL][SI]|[AP][SI][RL]|[SI][RL][AP]|[SI][AP][RL])$"
    )


class Resample(Closed):
    """Bring voxels to `spacing_mm`; an axis of null keeps the source's spacing."""

    op: Literal["resample"]
    spacing_mm: tuple[Positive | None, Positive | None, Positive | None]
    interpolation: Literal["linear"] = "linear"
    convention: Literal["image-extent"] = "image-extent"


class Resize(Closed):
    """Bring the grid to `size` voxels over the same extent, whatever the spacing; null keeps an axis."""

    op: Literal["resize"]
    size: tuple[Size | None, Size | None, Size | None]


class CropForeground(Closed):
    """Keep the box of voxels of the first channel above `threshold`, and `margin_mm` around it."""

    op: Literal["crop_foreground"]
    threshold: float
    margin_mm: float = Field(0.0, ge=0)


class Clip(Closed):
    """Clip values to fixed limits, e.g. HU of a CT."""

    op: Literal["clip"]
    lower: float
    upper: float
    channels: Channels = ()

    @model_validator(mode="after")
    def has_width(self) -> Clip:
        """Refuse limits that leave no picture."""
        if not self.lower < self.upper:
            raise ValueError("clip needs lower < upper")
        return self


class ClipPercentile(Closed):
    """Clip values to these percentiles, of the whole volume or of its voxels that are not zero.

    `each_slice`: slices across the third axis by themselves, as a coil's fall-off in a stack of planes needs it.
    """

    op: Literal["clip_percentile"]
    lower: float = Field(ge=0, lt=100)
    upper: float = Field(gt=0, le=100)
    nonzero: bool = False
    each_slice: bool = False
    channels: Channels = ()

    @model_validator(mode="after")
    def has_width(self) -> ClipPercentile:
        """Refuse percentiles that leave no picture."""
        if not self.lower < self.upper:
            raise ValueError("clip_percentile needs lower < upper")
        return self


class Scale(Closed):
    """Map the smallest value to `lowest` and the largest to `highest`, linearly; `each_slice` by itself or all."""

    op: Literal["scale"]
    lowest: float = 0.0
    highest: float = 1.0
    each_slice: bool = False
    channels: Channels = ()


class ScaleRange(Closed):
    """Map `a_min` to `b_min` and `a_max` to `b_max`, linearly; clip to them where `clip`."""

    op: Literal["scale_range"]
    a_min: float
    a_max: float
    b_min: float = 0.0
    b_max: float = 1.0
    clip: bool = True
    channels: Channels = ()

    @model_validator(mode="after")
    def has_width(self) -> ScaleRange:
        """Refuse an empty range."""
        if not self.a_min < self.a_max:
            raise ValueError("scale_range needs a_min < a_max")
        return self


class ZScore(Closed):
    """Subtract the mean and divide by the standard deviation, of all voxels or of those that are not zero."""

    op: Literal["zscore"]
    nonzero: bool = False
    channels: Channels = ()


class FillOutside(Closed):
    """Give `value` to what is not above `threshold` and joins its slice's edge, slices being across the third axis.

    So the air around a body in CT is told from the air within; a lung that the field of view cuts is lost with it.
    """

    op: Literal["fill_outside"]
    threshold: float
    value: float
    channels: Channels = ()


Preprocess = Annotated[
    Orient | Resample | Resize | CropForeground | FillOutside | Clip | ClipPercentile | Scale | ScaleRange | ZScore,
    Field(discriminator="op"),
]
GRID_STEPS = (Orient, Resample, Resize, CropForeground)


class SlidingWindow(Closed):
    """Windows of `roi` over the volume, blended; a volume smaller than `roi` is padded with its lowest value."""

    mode: Literal["sliding_window"]
    roi: tuple[Size, Size, Size]
    overlap: float = Field(0.25, ge=0, lt=1)
    blend: Literal["gaussian", "constant"] = "gaussian"
    batch: int = Field(1, ge=1, le=64)


class Whole(Closed):
    """The whole volume at once: preprocess must end with a `resize` to `roi`."""

    mode: Literal["whole"]
    roi: tuple[Size, Size, Size]

    @property
    def batch(self) -> int:
        """There is one volume."""
        return 1


class Slices(Closed):
    """Every slice across the third axis by itself, a 2-D network; a slice smaller than `roi` is padded."""

    mode: Literal["slices"]
    roi: tuple[Size, Size]
    overlap: float = Field(0.25, ge=0, lt=1)
    blend: Literal["gaussian", "constant"] = "gaussian"
    batch: int = Field(8, ge=1, le=64)


Inference = Annotated[SlidingWindow | Whole | Slices, Field(discriminator="mode")]


class ToSourceGrid(Closed):
    """Go back to the grid of the source.

    "linear_logits": interpolate each class's logits linearly, then decide; "nearest": decide, then take the nearest.
    """

    op: Literal["to_source_grid"]
    method: Literal["linear_logits", "nearest"] = "linear_logits"


class LargestComponent(Closed):
    """Keep, of these segments taken together, only the largest connected part (26 neighbours)."""

    op: Literal["largest_component"]
    segments: tuple[int, ...] = Field(min_length=1)


class FillHoles(Closed):
    """Give each of these segments the background that it encloses on all sides."""

    op: Literal["fill_holes"]
    segments: tuple[int, ...] = Field(min_length=1)


class RemoveSmall(Closed):
    """Remove connected parts of each of these segments that are smaller than `min_volume_ml`."""

    op: Literal["remove_small"]
    segments: tuple[int, ...] = Field(min_length=1)
    min_volume_ml: Positive


Cleaning = LargestComponent | FillHoles | RemoveSmall
Postprocess = Annotated[ToSourceGrid | LargestComponent | FillHoles | RemoveSmall, Field(discriminator="op")]

"""A bundle's preprocessing → the operations of a package, with their meaning kept or refused.

The order of a package is fixed: orient, then what changes the grid, then what changes values. Where a bundle's own
order would give other numbers, it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.errors import SettingsError
from models.bundle.arguments import Arguments
from models.bundle.reading import Component

FILES = ("reader", "image_only", "ensure_channel_first", "simple_keys", "prune_meta_pattern", "prune_meta_sep",
         "expanduser", "dtype", "meta_keys", "meta_key_postfix", "overwriting", "strict_check", "channel_dim",
         "data_type", "device", "wrap_sequence", "track_meta", "allow_missing_keys", "lazy")  # fmt: skip
HALF_A_VOXEL = (
    "Spacingd keeps the centre of the first voxel, a package the outer faces of the image: the two grids may lie up to "
    "half a voxel apart, and their sizes may differ by one voxel an axis"
)


@dataclass
class Prepared:
    """What was understood so far. Axes are those that `axcodes` makes."""

    channels: int
    dimensions: int
    axcodes: str = ""
    spacing_mm: list[float | None] | None = None
    size: list[int | None] | None = None
    crop: dict[str, Any] | None = None
    values: list[dict[str, Any]] = field(default_factory=list)
    zero: float | None = 0.0  # the source's value that is 0 now; None where that depends on the image
    differences: list[str] = field(default_factory=list)  # from MONAI, each a sentence
    kept: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # MONAI's own steps that were understood

    def operations(self) -> list[dict[str, Any]]:
        """Return the preprocess of package.json."""
        steps: list[dict[str, Any]] = [{"op": "orient", "axcodes": self.axcodes}]
        if self.crop:
            steps.append(self.crop)
        if self.spacing_mm:
            steps.append({"op": "resample", "spacing_mm": self.spacing_mm})
        if self.size:
            steps.append({"op": "resize", "size": self.size})
        return [*steps, *self.values]


def prepared(
    steps: Sequence[Component], channels: int, dimensions: int, axcodes: str = "", spacing_mm: Sequence[float] = ()
) -> Prepared:
    """Return what a bundle's preprocessing becomes; PackageRefused names the step that has no counterpart.

    `axcodes`, `spacing_mm`: what a person says of the images the bundle was trained with, where it does not say.
    """
    found = Prepared(channels, dimensions, spacing_mm=list(spacing_mm) or None)
    found.differences += [HALF_A_VOXEL] if spacing_mm else []
    for step in steps:
        arguments = Arguments(step)
        if step.name not in STEPS:
            raise arguments.wrong(f"is not a transform that can be imported; those are {', '.join(sorted(STEPS))}")
        check_keys(arguments)
        STEPS[step.name](arguments, found)
        arguments.done()
        if STEPS[step.name] is not nothing:
            found.kept.append((step.name, dict(step.arguments)))
    if axcodes and found.axcodes:
        raise SettingsError(f"--axcodes: the bundle itself turns its images to {found.axcodes}")
    if not (axcodes or found.axcodes):
        raise SettingsError(
            "the bundle has no Orientationd: it takes axes as they lie in the files it was trained with; say which by "
            "--axcodes, e.g. LPS for axial DICOM slices and BraTS files"
        )
    found.axcodes = found.axcodes or axcodes
    if dimensions == 2 and any(step["op"] in ("scale", "zscore", "clip_percentile") for step in found.values):
        found.differences.append(
            "the bundle takes minimum, mean or percentiles of each image, a package of the whole series: it reads "
            "series of one slice only"
        )
    return found


def check_keys(arguments: Arguments) -> None:
    """Raise PackageRefused unless a step works on the image and nothing else."""
    keys = arguments.take("keys")
    if keys not in ("image", ["image"]):
        raise arguments.wrong('works on other keys than "image"', "keys")


def nothing(step: Arguments, found: Prepared) -> None:  # noqa: ARG001
    """Reading and converting change no value."""
    step.pass_over(*FILES)


def orientation(step: Arguments, found: Prepared) -> None:
    """Orientationd: the axes run towards these letters from here on."""
    step.pass_over("allow_missing_keys", "lazy")
    step.expect("labels", None, default=None)
    closest = step.flag("as_closest_canonical", False)
    axcodes = "RAS" if closest else step.take("axcodes")
    step.pass_over("axcodes")
    if found.axcodes or not isinstance(axcodes, str) or found.dimensions != 3:
        raise step.wrong("only once, with axcodes, and for three axes")
    if found.size or found.crop or len(set(found.spacing_mm or [1.0])) > 1:
        raise step.wrong("stands after a step that treats axes differently; it must come first")
    found.axcodes = axcodes


def spacing(step: Arguments, found: Prepared) -> None:
    """Spacingd: resample; null keeps an axis."""
    step.pass_over("allow_missing_keys", "lazy", "dtype", "recompute_affine", "ensure_same_shape", "padding_mode")
    step.pass_over("align_corners")
    step.expect("mode", "bilinear", 1, default="bilinear")
    step.expect("diagonal", False, default=False)
    step.expect("scale_extent", False, default=False)
    step.expect("min_pixdim", None, default=None)
    step.expect("max_pixdim", None, default=None)
    pixdim = step.numbers("pixdim", found.dimensions)
    refuse_late(step, found)
    if found.spacing_mm or found.size:
        raise step.wrong("the grid was set before")
    found.spacing_mm = [one if one > 0 else None for one in pixdim] + [None] * (3 - found.dimensions)
    found.differences.append(HALF_A_VOXEL)


def resized(step: Arguments, found: Prepared) -> None:
    """Resized: a fixed number of voxels over the same extent."""
    step.pass_over("allow_missing_keys", "lazy", "dtype")
    step.expect("mode", "trilinear" if found.dimensions == 3 else "bilinear", default="area")
    step.expect("align_corners", None, False, default=None)
    step.expect("size_mode", "all", default="all")
    step.expect("anti_aliasing", False, default=False)
    step.expect("anti_aliasing_sigma", None, default=None)
    size = step.numbers("spatial_size", found.dimensions)
    refuse_late(step, found)
    if found.spacing_mm or found.size:
        raise step.wrong("the grid was set before")
    if any(one != int(one) or not 1 <= one <= 1024 for one in size):
        raise step.wrong("is not whole numbers from 1 to 1024", "spatial_size")
    found.size = [int(one) for one in size] + [None] * (3 - found.dimensions)


def cropped(step: Arguments, found: Prepared) -> None:
    """CropForegroundd: the box of voxels above the source's value that is 0 at this point."""
    step.pass_over("allow_missing_keys", "lazy", "start_coord_key", "end_coord_key", "allow_smaller", "mode")
    step.expect("source_key", "image", default="image")
    step.expect("channel_indices", None, 0, default=None)
    step.expect("k_divisible", 1, default=1)
    step.expect("margin", 0, default=0)
    if found.channels > 1:
        raise step.wrong("looks at every channel, a package only at the first of several")
    if found.size:
        raise step.wrong("stands after Resized; a package crops before it resizes, which gives other numbers")
    if found.crop:
        raise step.wrong("only once")
    if found.zero is None:
        raise step.wrong("stands after a step that makes 0 depend on the image")
    found.crop = {"op": "crop_foreground", "threshold": found.zero}
    found.differences.append("CropForegroundd looks at resampled voxels, a package at those of the source")


def scaled_range(step: Arguments, found: Prepared) -> None:
    """ScaleIntensityRanged: fixed values to fixed values."""
    step.pass_over("dtype", "allow_missing_keys")
    low, high = step.number("a_min"), step.number("a_max")
    clip = step.flag("clip", False)
    to_low, to_high = step.take("b_min", None), step.take("b_max", None)
    if (to_low is None) != (to_high is None) or (clip and to_low is None):
        raise step.wrong("needs b_min and b_max, or neither and no clip")
    if not low < high:
        raise step.wrong("needs a_min < a_max")
    to_low, to_high = (0.0, 1.0) if to_low is None else (float(to_low), float(to_high))
    found.values.append({"op": "scale_range", "a_min": low, "a_max": high, "b_min": to_low, "b_max": to_high,
                         "clip": clip})  # fmt: skip
    reachable = to_low < to_high and (not clip or to_low <= 0 < to_high)
    zero = low - to_low * (high - low) / (to_high - to_low) if reachable else None
    found.zero = zero if len(found.values) == 1 else None


def scaled(step: Arguments, found: Prepared) -> None:
    """ScaleIntensityd: the image's own range to a fixed one."""
    step.pass_over("dtype", "allow_missing_keys")
    step.expect("factor", None, default=None)
    by_channel(step, found)
    low, high = step.number("minv", 0.0), step.number("maxv", 1.0)
    found.values.append({"op": "scale", "lowest": low, "highest": high})
    found.zero = None


def normalised(step: Arguments, found: Prepared) -> None:
    """NormalizeIntensityd: the image's own mean and deviation, or fixed ones."""
    step.pass_over("dtype", "allow_missing_keys")
    nonzero = step.flag("nonzero", False)
    subtrahend, divisor = step.take("subtrahend", None), step.take("divisor", None)
    if subtrahend is None and divisor is None:
        by_channel(step, found)
        found.values.append({"op": "zscore", "nonzero": nonzero})
    else:
        step.pass_over("channel_wise")
        mean, deviation = fixed(step, "subtrahend", subtrahend, 0.0), fixed(step, "divisor", divisor, 1.0)
        if nonzero or deviation <= 0:
            raise step.wrong("fixed numbers only for all voxels, and a positive divisor")
        found.values.append({"op": "scale_range", "a_min": mean, "a_max": mean + deviation, "clip": False})
    found.zero = None


def percentiles(step: Arguments, found: Prepared) -> None:
    """ScaleIntensityRangePercentilesd: two percentiles to fixed values, clipped."""
    step.pass_over("dtype", "allow_missing_keys")
    step.expect("clip", True, default=False)
    step.expect("relative", False, default=False)
    by_channel(step, found)
    lower, upper = step.number("lower"), step.number("upper")
    low, high = step.number("b_min"), step.number("b_max")
    found.values.append({"op": "clip_percentile", "lower": lower, "upper": upper})
    found.values.append({"op": "scale", "lowest": low, "highest": high})
    found.zero = None


def by_channel(step: Arguments, found: Prepared) -> None:
    """Raise PackageRefused unless several channels are treated each by itself, as a package does."""
    if not step.flag("channel_wise", False) and found.channels > 1:
        raise step.wrong("takes all channels together, a package each by itself", "channel_wise")


def fixed(step: Arguments, name: str, value: Any, default: float) -> float:
    """Return one number for all channels."""
    several = value if isinstance(value, list) else [default if value is None else value]
    if len(set(several)) != 1 or not isinstance(several[0], int | float):
        raise step.wrong("is not one number for all channels", name)
    return float(several[0])


def refuse_late(step: Arguments, found: Prepared) -> None:
    """Raise PackageRefused for a change of the grid after a change of values: the other order gives other numbers."""
    if found.values:
        raise step.wrong("stands after a step that changes values; a package changes the grid first")


STEPS: Mapping[str, Callable[[Arguments, Prepared], None]] = {
    "LoadImaged": nothing,
    "EnsureChannelFirstd": nothing,
    "EnsureTyped": nothing,
    "ToTensord": nothing,
    "CastToTyped": nothing,
    "Orientationd": orientation,
    "Spacingd": spacing,
    "Resized": resized,
    "CropForegroundd": cropped,
    "ScaleIntensityRanged": scaled_range,
    "ScaleIntensityd": scaled,
    "NormalizeIntensityd": normalised,
    "ScaleIntensityRangePercentilesd": percentiles,
}

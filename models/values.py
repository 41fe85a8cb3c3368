"""Operations that change voxel values and leave the grid alone, channel by channel. float32 in, float32 out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from appliance.errors import StudyUnsuitable
from models.operations import GRID_STEPS, Clip, ClipPercentile, FillOutside, Preprocess, Scale, ScaleRange, ZScore

SAME = "the image has the same value everywhere"
IN_PLANE = np.zeros((3, 3, 3), bool)  # neighbours across an edge of the first two axes
IN_PLANE[:, 1, 1] = IN_PLANE[1, :, 1] = True


def changed(image: Tensor, step: Preprocess) -> Tensor:
    """Return `image` (channels, x, y, z) after one step; a step on the grid changes nothing here.

    Raises StudyUnsuitable where an image holds no picture.
    """
    if isinstance(step, GRID_STEPS):
        return image
    change = CHANGES[type(step)]
    if getattr(step, "each_slice", False):
        change = slice_by_slice(change)
    wanted = step.channels or range(len(image))
    channels = [change(one, step) if n in wanted else one for n, one in enumerate(image)]
    return torch.stack(channels)


def slice_by_slice(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the change applied to each slice (x, y) across z; an even slice becomes zero, for it shows nothing."""

    def changed_slices(image: Tensor, step: Preprocess) -> Tensor:
        slices = [image[..., n] for n in range(image.shape[-1])]
        even = [bool(one.min() == one.max()) for one in slices]
        if all(even):
            raise StudyUnsuitable(SAME)
        found = [torch.zeros_like(one) if flat else change(one, step) for one, flat in zip(slices, even, strict=True)]
        return torch.stack(found, -1)

    return changed_slices


def clipped(image: Tensor, step: Clip) -> Tensor:
    """Return `image` within fixed limits."""
    return image.clamp(step.lower, step.upper)


def clipped_to_percentiles(image: Tensor, step: ClipPercentile) -> Tensor:
    """Return `image` within two of its percentiles."""
    low, high = percentiles(image[image != 0] if step.nonzero else image, step.lower, step.upper)
    return image.clamp(low, high)


def scaled(image: Tensor, step: Scale) -> Tensor:
    """Return `image` with its smallest and largest value mapped to those of `step`."""
    low, high = (float(one) for one in torch.aminmax(image))
    if not high > low:
        raise StudyUnsuitable(SAME)
    return (image - low).mul_((step.highest - step.lowest) / (high - low)).add_(step.lowest)


def scaled_range(image: Tensor, step: ScaleRange) -> Tensor:
    """Return `image` with fixed values mapped to fixed values."""
    factor = (step.b_max - step.b_min) / (step.a_max - step.a_min)
    result = (image - step.a_min).mul_(factor).add_(step.b_min)
    low, high = min(step.b_min, step.b_max), max(step.b_min, step.b_max)
    return result.clamp_(low, high) if step.clip else result


def standardised(image: Tensor, step: ZScore) -> Tensor:
    """Return `image` with mean 0 and standard deviation 1; with `nonzero`, zeros stay zeros."""
    counted = image != 0 if step.nonzero else torch.ones_like(image, dtype=torch.bool)
    values = image[counted].double()
    if len(values) < 2 or not float(values.std(correction=0)) > 0:
        raise StudyUnsuitable(SAME)
    mean, deviation = float(values.mean()), float(values.std(correction=0))
    return torch.where(counted, (image - mean) / deviation, image)


def filled_outside(image: Tensor, step: FillOutside) -> Tensor:
    """Return `image` with one value outside of the body; what is connected is looked for on the CPU."""
    low = (image <= step.threshold).cpu().numpy()
    edge = np.zeros_like(low)
    edge[[0, -1]] = low[[0, -1]]
    edge[:, [0, -1]] = low[:, [0, -1]]
    outside = ndimage.binary_propagation(edge, IN_PLANE, low)
    return torch.where(torch.from_numpy(outside).to(image.device), step.value, image)


def percentiles(image: Tensor, *wanted: float) -> list[float]:
    """Return percentiles (0…100) of all values, linearly between neighbours."""
    if not image.numel():
        raise StudyUnsuitable(SAME)
    if image.device.type == "cpu":
        return [float(one) for one in np.percentile(image.numpy(), wanted)]
    return sorted_percentiles(image, *wanted)


def sorted_percentiles(image: Tensor, *wanted: float) -> list[float]:
    """Return the same by sorting on the device of `image`."""
    ordered = torch.sort(image.flatten()).values
    places = [share / 100 * (len(ordered) - 1) for share in wanted]
    return [float(torch.lerp(ordered[int(at)], ordered[min(int(at) + 1, len(ordered) - 1)], at % 1)) for at in places]


CHANGES: dict[type, Callable[..., Tensor]] = {
    FillOutside: filled_outside,
    Clip: clipped,
    ClipPercentile: clipped_to_percentiles,
    Scale: scaled,
    ScaleRange: scaled_range,
    ZScore: standardised,
}

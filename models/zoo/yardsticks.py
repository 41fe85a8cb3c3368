"""Other people's networks to measure ours against: brainchop's 18 structures and deepbet's brain mask.

They are read from a folder the caller names and never ship. This module must never decide what is good enough.
Volumes are (k, j, i) with any axis order; answers lie on the same grid.
"""

from __future__ import annotations

from pathlib import Path

import cc3d
import nibabel
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch.nn import functional

from appliance.volume import Affine, Volume
from models.operations import Orient, Resample
from models.reading import Labels
from models.transforms import Floats, Grid, interpolated, nearest_on_source, network_grid

Mask = npt.NDArray[np.bool_]
BRAINCHOP = "model30chan18cls.onnx"
# brainchop number → class of brain-structures
BRAINCHOP_CLASSES = {
    1: 2, 2: 1, 3: 3, 4: 3, 5: 4, 6: 4, 7: 5, 8: 5, 9: 5, 10: 5, 11: 3, 12: 3, 13: 7, 14: 6, 15: 6, 16: 5, 17: 5,
}  # fmt: skip
NOT_CEREBRUM = (5, 6, 13)  # brainchop's cerebellum and brain stem


def read_nifti(path: Path) -> Volume:
    """Return a NIfTI file as a Volume without frames; its RAS affine is turned to LPS."""
    image = nibabel.load(path)
    affine: Affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # type: ignore[attr-defined]
    voxels = np.asarray(image.dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    return Volume(voxels, affine, (), "", "", modality="MR")


def session(path: Path) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session that does not spin."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def brainchop_labels(volume: Volume, folder: Path) -> Labels:
    """Return brainchop's 18 structures of a head: 1 mm, axes L-I-A, cropped to what is brighter than air."""
    image, grid = at_one_mm(volume, "LIA")
    low, high = float(image.min()), float(np.percentile(image, 99.9))
    rounded = np.round(np.clip((image - low) / (high - low), 0, 1) * 255) / np.float32(255)
    turned = rounded.astype(np.float32)
    box = box_of(turned > 0.1)
    network = session(folder / BRAINCHOP)
    logits = network.run(None, {network.get_inputs()[0].name: turned[box][None, None]})[0][0]
    labels = np.zeros(turned.shape, np.uint8)
    labels[box] = logits.argmax(0)
    return turned_back(labels, grid)


def deepbet_mask(volume: Volume, folder: Path) -> Mask:
    """Return deepbet's brain mask: a box from a coarse pass at 128³, then 256³ inside the box."""
    turned, grid = at_one_mm(volume, "RAS")
    whole = torch.from_numpy(turned)[None, None]
    coarse = functional.interpolate(whole, size=(128, 128, 128), mode="nearest-exact")[0, 0].numpy()
    limits = np.percentile(coarse, [0.5, 99.5])
    inside = interpolated_mask(probability(coarse, limits, folder / "bbox_model.onnx"), turned.shape)
    box = box_of(inside, margin=0.08)
    fine = interpolated(torch.from_numpy(np.ascontiguousarray(turned[box])), (256, 256, 256)).numpy()
    mask = np.zeros(turned.shape, bool)
    mask[box] = interpolated_mask(probability(fine, limits, folder / "model.onnx"), turned[box].shape)
    kept = (cc3d.largest_k(mask, k=1) > 0).astype(np.uint8)
    return turned_back(kept, grid) > 0


def probability(image: Floats, limits: npt.NDArray[np.float64], model: Path) -> Floats:
    """Return one deepbet network's probability of brain, normalised as deepbet does."""
    scaled = np.clip((image - limits[0]) / (limits[1] - limits[0]), 0, 1)
    scaled = (scaled - scaled.mean()) / scaled.std() * 0.226 + 0.449
    network = session(model)
    answer = network.run(None, {network.get_inputs()[0].name: scaled[None, None].astype(np.float32)})
    return np.asarray(answer[0][0, 1], np.float32)


def interpolated_mask(share: Floats, shape: tuple[int, ...]) -> Mask:
    """Return where a probability, interpolated to `shape`, is over one half."""
    a, b, c = shape
    return interpolated(torch.from_numpy(np.ascontiguousarray(share)), (a, b, c)).numpy() > 0.5


def box_of(mask: Mask, margin: float = 0.0) -> tuple[slice, slice, slice]:
    """Return the bounding box of a mask, wider by `margin` of its size on each side, within the array."""
    sides = []
    for axis, size in enumerate(mask.shape):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        more = int((hit[-1] - hit[0] + 1) * margin)
        sides.append(slice(max(0, int(hit[0]) - more), min(size, int(hit[-1]) + 1 + more)))
    return sides[0], sides[1], sides[2]


def at_one_mm(volume: Volume, axcodes: str) -> tuple[Floats, Grid]:
    """Return the image at 1 mm with axes towards `axcodes`, and its grid."""
    steps = (Orient(op="orient", axcodes=axcodes), Resample(op="resample", spacing_mm=(1, 1, 1)))
    grid = network_grid(volume, steps)
    image = interpolated(torch.from_numpy(np.ascontiguousarray(volume.voxels, np.float32)), grid.size)
    return np.ascontiguousarray(grid.turn.apply(image).numpy()), grid


def turned_back(labels: Labels, grid: Grid) -> Labels:
    """Return a label map on the source grid, nearest voxel."""
    return nearest_on_source(torch.from_numpy(np.ascontiguousarray(labels)), grid)

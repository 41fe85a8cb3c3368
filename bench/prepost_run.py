"""Everything around the network for one CT of 512×512×300, in a process of its own on one thread, as JSON.

`python -m bench.prepost_run ours|monai FOLDER`: int16 voxels of 0.8×0.8×1.0 mm → the network's grid of 1.5×1.5×2.0 mm
→ labels of two classes on the voxels they came from. The network is left out: logits of two lung-sized bodies are ready
on whatever grid a subject makes. FOLDER holds ct.npy (k, j, i); the labels are compared with the analytic truth.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from appliance.volume import Volume
from bench.processes import peak_mb
from models.operations import Orient, Resample, ScaleRange

SHAPE = (300, 512, 512)  # (k, j, i)
SPACING_MM = (1.0, 0.8, 0.8)
NETWORK_MM = (1.5, 1.5, 2.0)  # (x, y, z)
HU = (-57.0, 164.0)
CENTRES_MM = ((95.0, 205.0, 150.0), (315.0, 205.0, 150.0))  # of both bodies (x, y, z) from the first voxel's corner
RADII_MM = (65.0, 90.0, 120.0)
Voxels = npt.NDArray[np.int16]
Labels = npt.NDArray[np.uint8]


def depth(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], z: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return how deep points (mm, axes that broadcast) lie in the nearer body: 1 in its middle, 0 at its face."""
    found = []
    for centre in CENTRES_MM:
        parts = ((at - middle) / radius for at, middle, radius in zip((x, y, z), centre, RADII_MM, strict=True))
        found.append(1 - np.sqrt(sum(part * part for part in parts)))
    return np.asarray(np.maximum(*found), np.float32)


def centres(count: int, spacing: float, first: float) -> npt.NDArray[np.float32]:
    """Return where voxel centres lie along one axis, in mm from the first source voxel's corner."""
    return (np.arange(count) * spacing + first).astype(np.float32)


def truth() -> npt.NDArray[np.bool_]:
    """Return the bodies on the source grid (k, j, i)."""
    z, y, x = (centres(count, mm, mm / 2) for count, mm in zip(SHAPE, SPACING_MM, strict=True))
    return depth(x, y[:, None], z[:, None, None]) > 0


def ct_volume(ct: Voxels) -> Volume:
    """Return the voxels (k, j, i) as a volume whose axes run towards S, P, L."""
    affine = np.diag([*SPACING_MM, 1.0])[[2, 1, 0, 3]]  # (k, j, i) → L, P, S in mm
    return Volume(ct, affine, (), "1.2.3", "1.2.4", modality="CT")


def our_steps() -> tuple[Orient, Resample, ScaleRange]:
    """Return the steps before the network, as a package declares them."""
    return (
        Orient(op="orient", axcodes="RAS"),
        Resample(op="resample", spacing_mm=NETWORK_MM),
        ScaleRange(op="scale_range", a_min=HU[0], a_max=HU[1]),
    )


def ours(ct: Voxels) -> tuple[Labels, float, float]:
    """Return labels (k, j, i), and CPU seconds before and after the network, of the appliance's own path."""
    from models.transforms import labels_on_source, prepared

    start = time.process_time()
    image, grid = prepared([ct_volume(ct)], our_steps())
    before = time.process_time() - start
    extent = [count * mm for count, mm in zip(SHAPE[::-1], SPACING_MM[::-1], strict=True)]
    x, y, z = (
        centres(count, whole / count, whole / count / 2) for count, whole in zip(image.shape[1:], extent, strict=True)
    )
    body = torch.from_numpy(depth(x[::-1, None, None], y[::-1, None], z))  # R-A-S: x and y run backwards in LPS
    logits = torch.stack([-body, body])
    start = time.process_time()
    labels = labels_on_source(logits, grid)
    return labels, before, time.process_time() - start


def monai_chain() -> tuple[Any, Any]:
    """Return the transforms before and after the network that MONAI's bundles declare, with their defaults."""
    from monai.transforms import AsDiscreted, Compose, Invertd, Orientationd, ScaleIntensityRanged, Spacingd

    before = Compose(
        [
            Orientationd(keys="image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(keys="image", pixdim=NETWORK_MM, mode="bilinear"),
            ScaleIntensityRanged("image", *HU, 0.0, 1.0, clip=True),
        ]
    )
    invert = Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True)
    return before, Compose([invert, AsDiscreted("pred", argmax=True)])


def monai_item(ct: Voxels) -> dict[str, Any]:
    """Return the voxels (k, j, i) as MONAI's LoadImage and EnsureChannelFirst would leave them."""
    from monai.data import MetaTensor

    affine = torch.diag(torch.tensor([-SPACING_MM[2], -SPACING_MM[1], SPACING_MM[0], 1.0], dtype=torch.float64))
    return {"image": MetaTensor(torch.from_numpy(ct).permute(2, 1, 0)[None].to(torch.float32), affine=affine)}


def as_monai_does(ct: Voxels) -> tuple[Labels, float, float]:
    """Return the same as `ours` by MONAI's chain."""
    from monai.data import MetaTensor

    before, after = monai_chain()
    start = time.process_time()
    item = before(monai_item(ct))
    spent = time.process_time() - start
    image = item["image"]
    step, first = np.diag(image.affine.numpy()), image.affine.numpy()[:3, 3]  # R, A, S in mm
    x, y, z = (
        centres(count, sign * step[n], sign * first[n] + mm / 2)
        for n, (count, sign, mm) in enumerate(zip(image.shape[1:], (-1, -1, 1), SPACING_MM[::-1], strict=True))
    )
    body = torch.from_numpy(depth(x[:, None, None], y[:, None], z))
    item["pred"] = MetaTensor(torch.stack([-body, body]), meta=image.meta, applied_operations=image.applied_operations)
    start = time.process_time()
    found = after(item)["pred"][0].to(torch.uint8).permute(2, 1, 0).numpy()
    return np.ascontiguousarray(found), spent, time.process_time() - start


def main(subject: str, folder: Path) -> None:
    """Print what one CT cost, and how well its labels meet the analytic truth."""
    torch.set_num_threads(1)
    ct = np.load(folder / "ct.npy")
    with torch.inference_mode():
        labels, before, after = ours(ct) if subject == "ours" else as_monai_does(ct)
    peak = peak_mb(os.getpid())[os.getpid()]
    real = truth()
    dice = 2 * np.count_nonzero(real & (labels == 1)) / (np.count_nonzero(real) + np.count_nonzero(labels))
    row = {"pre_cpu_s": round(before, 3), "post_cpu_s": round(after, 3), "cpu_s": round(before + after, 3)}
    print(json.dumps(row | {"dice_of_truth": round(float(dice), 5), "peak_rss_mb": round(peak, 1)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

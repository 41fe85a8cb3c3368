"""A whole CT from voxels in memory to labels on its own grid, on a GPU: our path, and the way MONAI's bundles declare.

Both get the same network and the same int16 voxels. Ours keeps all of it on the device and brings back uint8; a
bundle resamples on the host, as its inference.json says, runs with autocast, and inverts what the network said.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.gpu_subjects import DEVICE, Call, saying_why
from bench.networks import ROI
from bench.prepost_run import ct_volume, monai_chain, monai_item, our_steps

OVERLAP = 0.25
BATCH = 4
Labels = npt.NDArray[np.uint8]


class CalledEngine:
    """A call as an engine of ours."""

    name, precision = "bench", "f16"
    device = DEVICE

    def __init__(self, call: Call) -> None:
        self._call = call

    def run(self, batch: Tensor) -> Tensor:
        """Return the answers of a batch."""
        return self._call(batch).clone()

    def close(self) -> None:
        """Nothing is held."""


def our_way(ct: npt.NDArray[np.int16], call: Call) -> Labels:
    """Return labels (k, j, i) by our path; raises Absent."""
    with saying_why():
        from models.inference import sliding_window
        from models.operations import SlidingWindow
        from models.transforms import labels_on_source, prepared

        plan = SlidingWindow(mode="sliding_window", roi=ROI, overlap=OVERLAP, blend="gaussian", batch=BATCH)
        with torch.inference_mode():
            image, grid = prepared([ct_volume(ct)], our_steps(), DEVICE)
            return labels_on_source(sliding_window(image, CalledEngine(call), plan), grid)


def bundle_way(ct: npt.NDArray[np.int16], network: Call) -> Labels:
    """Return labels (k, j, i) by a bundle's chain of transforms and MONAI's sliding window; raises Absent."""
    with saying_why():
        from monai.data import MetaTensor
        from monai.inferers import sliding_window_inference

        before, after = monai_chain()
        item = before(monai_item(ct))
        image = item["image"]
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            batch = image.as_tensor()[None].to(DEVICE)
            logits = sliding_window_inference(batch, ROI, BATCH, network, overlap=OVERLAP, mode="gaussian")[0].float()
        item["pred"] = MetaTensor(logits, meta=image.meta, applied_operations=image.applied_operations)
        labels: Labels = after(item)["pred"][0].to(torch.uint8).permute(2, 1, 0).cpu().numpy()
        return labels

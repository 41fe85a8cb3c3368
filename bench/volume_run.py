"""One subject over one whole volume, in a process of its own on one thread: CPU seconds and peak memory as JSON.

`python -m bench.volume_run SUBJECT NETWORK FOLDER`: torch eager goes through MONAI's sliding_window_inference, every
other subject through ours. FOLDER holds volume.npy (x, y, z) and the graphs; labels are left there for comparing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.engine_subjects import MONAI, engine_of
from bench.networks import ROI
from bench.processes import peak_mb
from models.engines import Engine

OVERLAP = 0.25


def main(subject: str, network: str, folder: Path) -> None:
    """Print what one volume cost."""
    torch.set_num_threads(1)
    image = torch.from_numpy(np.load(folder / f"{network}.volume.npy"))
    engine = engine_of(subject, network, folder)
    engine.run(torch.zeros(1, 1, *ROI))  # the first run allocates and, in some libraries, compiles
    wall, cpu = time.perf_counter(), time.process_time()
    logits = as_monai_does(image, engine) if subject == MONAI else as_we_do(image, engine)
    labels = (logits[1] > logits[0]).numpy()
    row = {"cpu_s": round(time.process_time() - cpu, 3), "wall_s": round(time.perf_counter() - wall, 3)}
    np.save(folder / f"{network}.{subject}.npy", np.packbits(labels))
    print(json.dumps(row | {"peak_rss_mb": round(peak_mb(os.getpid())[os.getpid()], 1)}))


@torch.inference_mode()
def as_monai_does(image: Tensor, engine: Engine) -> Tensor:
    """Return logits (classes, x, y, z) by MONAI's sliding_window_inference with its bundles' settings."""
    from monai.inferers import sliding_window_inference

    logits: Tensor = sliding_window_inference(image[None, None], ROI, 1, engine.run, overlap=OVERLAP, mode="gaussian")[
        0
    ]
    return logits


@torch.inference_mode()
def as_we_do(image: Tensor, engine: Engine) -> Tensor:
    """Return logits (classes, x, y, z) by the appliance's own path."""
    from models.inference import sliding_window
    from models.operations import SlidingWindow

    plan = SlidingWindow(mode="sliding_window", roi=ROI, overlap=OVERLAP, blend="gaussian", batch=1)
    return sliding_window(image[None], engine, plan)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))

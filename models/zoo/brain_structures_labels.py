"""The label maps that `brain-structures` learns from: what each number is, and how they are read.

This module must never read an image: the maps hold numbers of anatomical structures only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from models.synthesis import Tissues, tissue_indices

# FreeSurfer number, class, T1-like mean from…to, place: "" brain, "fluid" around it, "out" extracerebral
_LABELS: tuple[tuple[int, int, float, float, str], ...] = (
    (0, 0, 0.0, 0.0, ""),
    (2, 2, 0.78, 0.95, ""),
    (3, 1, 0.47, 0.62, ""),
    (4, 3, 0.08, 0.28, ""),
    (5, 3, 0.08, 0.28, ""),
    (7, 4, 0.74, 0.92, ""),
    (8, 4, 0.47, 0.64, ""),
    (10, 5, 0.60, 0.78, ""),
    (11, 5, 0.50, 0.64, ""),
    (12, 5, 0.53, 0.70, ""),
    (13, 5, 0.64, 0.86, ""),
    (14, 3, 0.08, 0.30, ""),
    (15, 3, 0.08, 0.28, ""),
    (16, 7, 0.68, 0.86, ""),
    (17, 6, 0.46, 0.62, ""),
    (18, 6, 0.46, 0.62, ""),
    (24, 3, 0.06, 0.28, "fluid"),
    (25, 2, 0.45, 0.90, ""),
    (26, 5, 0.48, 0.62, ""),
    (28, 5, 0.62, 0.82, ""),
    (30, 2, 0.10, 0.80, ""),
    (72, 3, 0.08, 0.28, ""),
    (85, 0, 0.50, 0.90, "out"),
    (136, 3, 0.10, 0.40, ""),
    (137, 3, 0.10, 0.40, ""),
    (502, 0, 0.00, 0.60, "out"),
    (506, 0, 0.05, 0.40, "out"),
    (507, 0, 0.20, 1.80, "out"),
    (508, 0, 0.00, 0.50, "out"),
    (509, 0, 0.00, 0.40, "out"),
    (511, 0, 0.30, 1.80, "out"),
    (512, 0, 0.60, 0.90, "out"),
    (514, 0, 0.10, 1.20, "out"),
    (515, 0, 0.00, 0.25, "out"),
    (516, 0, 0.10, 1.80, "out"),
    (530, 0, 0.40, 0.90, "out"),
)
# right number → left number: the same tissue on the other side
_OTHER_SIDE = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 57: 25, 58: 26,
    60: 28, 62: 30, 163: 136, 164: 137,
}  # fmt: skip


def tissues() -> Tissues:
    """Return what every label number of the maps is."""
    left = {row[0]: row for row in _LABELS}
    rows = [*_LABELS, *((number, *left[other][1:]) for number, other in _OTHER_SIDE.items())]
    numbers = tuple(row[0] for row in rows)
    return Tissues(
        numbers=numbers,
        classes=tuple(row[1] for row in rows),
        t1=tuple((row[2], row[3]) for row in rows),
        outside=tuple(row[4] == "out" for row in rows),
        fluid=tuple(row[4] == "fluid" for row in rows),
        alike={numbers.index(number): numbers.index(other) for number, other in _OTHER_SIDE.items()},
    )


def read_labels(folder: Path) -> list[Tensor]:
    """Return the label maps of `folder` as tissue indices (x, y, z), uint8, axes R-A-S, 2 mm.

    Reads labels.npz (written by `prepare`) where there is one, else seg_*.nii.gz.
    """
    stacked = folder / "labels.npz"
    maps = np.load(stacked)["maps"] if stacked.is_file() else [read_ras(path) for path in label_files(folder)]
    return [tissue_indices(numbers, tissues()) for numbers in maps]


def label_files(folder: Path) -> list[Path]:
    """Return the label maps of `folder` in order; FileNotFoundError where there is none."""
    files = sorted(folder.glob("seg_*.nii.gz"))
    if not files:
        raise FileNotFoundError(f"no labels.npz and no seg_*.nii.gz in {folder}")
    return files


def read_ras(path: Path) -> npt.NDArray[Any]:
    """Return the voxels of a NIfTI file with axes turned to R-A-S."""
    import nibabel  # not there on every machine that trains

    image = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(np.asarray(image.dataobj))

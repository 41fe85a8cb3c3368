"""A regular grid of voxels in patient space. It must never hold patient identity or touch a file.

Index order is (k, j, i) everywhere: slice, row, column. `affine @ (k, j, i, 1)` is the centre of that
voxel in the patient's LPS coordinates in mm (PS3.3 C.7.6.2.1.1): +x left, +y posterior, +z head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SourceFrame:
    """Where one slice of a Volume came from."""

    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None = None  # 1-based frame number of a multi-frame instance, else None


@dataclass(frozen=True)
class Volume:
    """Voxels of one series on one regular grid, and the frames they came from (one per k)."""

    voxels: Array  # (k, j, i), rescaled: HU for CT, arbitrary units for MR
    affine: Affine  # 4×4, (k, j, i, 1) → LPS mm
    frames: tuple[SourceFrame, ...]
    series_instance_uid: str
    frame_of_reference_uid: str
    frame_of_reference_derived: bool = False  # True: images had one each, or none; this one is ours
    modality: str = ""
    time_ms: float | None = None  # after the R-wave, of this moment in a beat; None where the images do not say

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (k, j, i)."""
        k, j, i = self.voxels.shape
        return k, j, i

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (k, j, i) in mm."""
        k, j, i = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(k), float(j), float(i)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

"""What a label map holds: voxels of each label in each slice, and the segments that follow from it.

A label map is uint8 (k, j, i) on the grid of the Volume, 0 background, else the segment number of a Finding.
This module must never change a label map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.errors import ResultRejected
from appliance.finding import Finding
from appliance.volume import Volume

LabelMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Segments:
    """The findings that have voxels, in the order of their Segment Numbers from 1 (PS3.3 C.8.20.4)."""

    findings: tuple[Finding, ...]
    voxels: npt.NDArray[np.int64]  # (segment, k): how many in each slice

    def number(self, finding: Finding) -> int:
        """Return the Segment Number of a finding that is there."""
        return self.findings.index(finding) + 1

    def key_slice(self, finding: Finding) -> int:
        """Return the k of the slice where the finding has most voxels."""
        return int(self.voxels[self.number(finding) - 1].argmax())


def segments(label_map: LabelMap, volume: Volume, findings: Sequence[Finding]) -> Segments:
    """Return the segments of a label map.

    Raises ResultRejected when the label map is on another grid than the volume or holds a label that is no
    finding's.
    """
    if label_map.shape != volume.shape or label_map.dtype != np.uint8:
        raise ResultRejected(f"the label map is {label_map.shape} {label_map.dtype}, the volume {volume.shape}")
    known = sorted((one for one in findings if one.segment_number), key=lambda finding: finding.segment_number)
    if len({finding.segment_number for finding in known}) != len(known):
        raise ResultRejected("two findings have one segment number")
    counted = voxels_by_slice(label_map)
    voxels = counted[:, [finding.segment_number for finding in known]].T
    total = int(counted.sum())
    if voxels.sum() != total:
        raise ResultRejected(f"{total - int(voxels.sum())} voxels of the label map belong to no finding")
    there = [n for n, row in enumerate(voxels) if row.any()]
    return Segments(tuple(known[n] for n in there), voxels[there])


def voxels_by_slice(label_map: LabelMap) -> npt.NDArray[np.int64]:
    """Return how many voxels have each label in each slice: (slices, 256), none for background."""
    return np.array([np.bincount(plane[plane > 0], minlength=256) for plane in label_map], np.int64).reshape(-1, 256)

"""Label map → findings with their measured volume. It must never drop a segment without its package saying so."""

from __future__ import annotations

import numpy as np

from appliance.errors import ResultRejected
from appliance.finding import ML, VOLUME, Finding, Measurement
from appliance.volume import Volume
from models.declaration import Segment
from models.package import Package
from models.transforms import Labels


def measure(label_map: Labels, volume: Volume, package: Package) -> tuple[Finding, ...]:
    """Return one finding for each segment that is there, in order, with its volume in ml.

    `label_map`: (k, j, i) uint8 on the grid of `volume`. A segment under its `min_volume_ml` is no finding.
    Raises ResultRejected for another grid, or a number that the package does not have.
    """
    if label_map.shape != volume.shape:
        raise ResultRejected(f"the label map has shape {label_map.shape}, its volume {volume.shape}")
    segments = {segment.number: segment for segment in package.manifest.outputs.segments}
    counts = np.bincount(label_map.ravel(order="K"), minlength=256)
    present = [int(number) for number in np.flatnonzero(counts) if number]
    if not set(present) <= set(segments):
        raise ResultRejected(f"the label map holds {sorted(set(present) - set(segments))}, no segments of the package")
    found = [finding(segments[number], int(counts[number]), volume.voxel_ml) for number in present]
    return tuple(one for one in found if one.measurements[0].value >= segments[one.segment_number].min_volume_ml)


def finding(segment: Segment, voxels: int, voxel_ml: float) -> Finding:
    """Return the finding of one segment with so many voxels."""
    return Finding(
        segment_number=segment.number,
        name=segment.name,
        category=segment.category.as_code(),
        code=segment.type.as_code(),
        site=segment.site.as_code() if segment.site else None,
        rgb=segment.rgb,
        measurements=(Measurement(VOLUME, voxels * voxel_ml, ML),),
        voxels=voxels,
    )

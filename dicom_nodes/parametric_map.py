"""Probabilities → one Parametric Map (PS3.3 A.75): each voxel of the slices that hold any.

A pixel is a number from 0 to 255, and 255 is certainty: Real World Value Mapping says so. Stored in 16 bits, since
readers of this class expect no fewer. Slices without any probability have no frame.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom import Dataset

from appliance.job import ResultContext
from appliance.volume import Volume
from dicom_nodes import codes, origin
from dicom_nodes.codes import concept
from dicom_nodes.elements import in_pieces
from dicom_nodes.label_maps import LabelMap
from dicom_nodes.multiframe import finish, identity, stand_in, take_out_frame, with_references
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.segment_frames import slice_groups
from dicom_nodes.source import SourceHeaders

CERTAIN = 255
CONTENT_LABEL = "PROBABILITY"


def write_probability_map(
    probability: LabelMap, what: str, volume: Volume, source: SourceHeaders, context: ResultContext
) -> origin.Encoded:
    """Return a complete Part 10 file, the same bytes for the same arguments.

    `probability` is uint8 (k, j, i) on the grid of `volume`, 255 certain, and not zero everywhere; `what` names what
    is probable.
    """
    slices = [int(k) for k in np.flatnonzero(probability.any(axis=(1, 2)))]
    with lenient():
        ds = _template(what, volume, source, context)
        finish(ds, volume, source, context, origin.PROBABILITY_SERIES)
        ds.NumberOfFrames = len(slices)
        planes = (probability[k].astype("<u2").tobytes() for k in slices)
        pixels = in_pieces(0x7FE00010, b"OW", len(slices) * probability[0].size * 2, planes)
        return origin.large_part10(ds, with_references(slice_groups(slices, source), pixels, volume, source))


def _template(what: str, volume: Volume, source: SourceHeaders, context: ResultContext) -> Dataset:
    """Return highdicom's Parametric Map of one frame, without its frame."""
    image = stand_in(volume, source)
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="PROBABILITY",
        lut_explanation=f"Probability of {what}"[: origin.LONGEST_LO],
        unit=concept(codes.NO_UNITS),
        value_range=(0, CERTAIN),
        slope=1 / CERTAIN,
        intercept=0,
        quantity_definition=concept(codes.PROBABILISTIC),
    )
    for tag, value in ((0x00409216, 0), (0x00409211, CERTAIN)):  # first and last value mapped: US or SS, by the pixels
        mapping.add_new(tag, "US", value)
    ds = hd.pm.ParametricMap(
        source_images=[image],
        pixel_array=np.zeros((1, image.Rows, image.Columns), np.uint16),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=CERTAIN / 2, window_width=CERTAIN)],
        content_label=CONTENT_LABEL,
        derivation=concept(codes.SEGMENTATION),
        **identity(volume, context),
    )
    take_out_frame(ds)
    return ds

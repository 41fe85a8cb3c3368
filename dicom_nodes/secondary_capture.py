"""A picture as a Secondary Capture Image (PS3.3 A.8.1), for viewers that draw neither numbers nor segments."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from appliance.job import ResultContext
from dicom_nodes import origin
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_classes import SECONDARY_CAPTURE
from dicom_nodes.source import SourceHeaders


def write_picture(
    pixels: npt.NDArray[np.uint8],
    source: SourceHeaders,
    context: ResultContext,
    series: origin.Series,
    ordinal: int = 0,
) -> bytes:
    """Return a complete Part 10 file of a picture (rows, columns, 3) uint8, RGB; it must show no patient's name."""
    ds = origin.started(SECONDARY_CAPTURE, "OT")
    ds.ConversionType, ds.ImageType = "WSD", ["DERIVED", "SECONDARY"]
    ds.BurnedInAnnotation, ds.PatientOrientation, ds.Laterality = "NO", "", ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    with lenient():
        origin.stamp(ds, source, context, series, ordinal)
        return origin.part10(ds, {})

"""What all our multi-frame results share: an object of highdicom's around one frame, and the source's own words.

highdicom makes the modules and codes of an object from a stand-in for the source image; its one frame is taken out
again, and `finish` replaces what stood in for patient, study, references and UIDs. It must never look at a voxel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import highdicom as hd
from pydicom import Dataset

from appliance.job import ResultContext
from appliance.volume import Volume
from dicom_nodes import origin
from dicom_nodes.elements import references, sequence, text
from dicom_nodes.source import SourceHeaders

COPIED = ("BodyPartExamined", "Laterality", "PositionReferenceIndicator")  # of series and frame of reference
PER_FRAME = (
    "FrameContentSequence",
    "PlanePositionSequence",
    "SegmentIdentificationSequence",
    "DerivationImageSequence",
)
OF_THE_FRAME = ("PerFrameFunctionalGroupsSequence", "PixelData", "ReferencedSeriesSequence", "SourceImageSequence")
PLACEHOLDER = "1.2.3"  # UIDs that are replaced
Pieces = bytes | Iterable[bytes]


def stand_in(volume: Volume, source: SourceHeaders) -> Dataset:
    """Return a stand-in for the first image: its geometry, nothing of the patient."""
    plane, ds = source.planes[0], Dataset()
    for keyword in origin.REQUIRED:
        setattr(ds, keyword, "")
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", PLACEHOLDER
    ds.StudyInstanceUID = ds.SeriesInstanceUID = PLACEHOLDER
    ds.FrameOfReferenceUID, ds.Modality = PLACEHOLDER, volume.modality
    ds.Rows, ds.Columns = plane.rows, plane.columns
    ds.ImagePositionPatient = list(plane.position or ())
    ds.ImageOrientationPatient = list(plane.orientation or ())
    ds.PixelSpacing = list(plane.pixel_spacing or ())
    ds.SliceThickness = volume.spacing_mm[0]
    return ds


def measures(volume: Volume) -> hd.PixelMeasuresSequence:
    """Return the spacing of the grid, mm."""
    slices, rows, columns = volume.spacing_mm
    return hd.PixelMeasuresSequence((rows, columns), slice_thickness=slices, spacing_between_slices=slices)


def identity(volume: Volume, context: ResultContext) -> dict[str, Any]:
    """Return what highdicom wants to know of series, equipment and grid, most of it replaced by `finish`."""
    return {
        "series_instance_uid": PLACEHOLDER,
        "series_number": 1,
        "sop_instance_uid": PLACEHOLDER,
        "instance_number": 1,
        "manufacturer": origin.MANUFACTURER,
        "manufacturer_model_name": origin.model_name(context),
        "software_versions": context.software_version,
        "device_serial_number": context.appliance_uid,
        "content_description": context.title[: origin.LONGEST_LO],
        "pixel_measures": measures(volume),
    }


def take_out_frame(ds: Dataset) -> None:
    """Remove the one frame, its references, and what highdicom shares of it between all frames."""
    for keyword in OF_THE_FRAME:
        if keyword in ds:
            delattr(ds, keyword)
    for keyword in PER_FRAME:
        if keyword in ds.SharedFunctionalGroupsSequence[0]:
            delattr(ds.SharedFunctionalGroupsSequence[0], keyword)


def with_references(groups: Pieces, pixels: Pieces, volume: Volume, source: SourceHeaders) -> dict[int, Pieces]:
    """Return what there is one of for each image or frame: tag → encoded element."""
    images = references(source.instances)
    series = sequence(0x0008114A, *images) + text(0x0020000E, b"UI", volume.series_instance_uid)
    return {
        0x00081115: sequence(0x00081115, series),  # Referenced Series Sequence
        0x00082112: sequence(0x00082112, *images),  # Source Image Sequence
        0x52009230: groups,
        0x7FE00010: pixels,
    }


def finish(ds: Dataset, volume: Volume, source: SourceHeaders, context: ResultContext, series: origin.Series) -> None:
    """Replace what stood in for patient, study, references and UIDs."""
    origin.stamp(ds, source, context, series)
    for keyword in COPIED:
        if keyword in source.header:
            origin.put(ds, keyword, source.header[keyword].value)
    origin.put(ds, "FrameOfReferenceUID", volume.frame_of_reference_uid)
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = measures(volume)  # one slice has no spacing
    dimensions = context.uid(f"{series.role}-dimensions")
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions

"""Label map → one RT Structure Set (PS3.3 A.19): closed planar contours on the source images, for planning.

Contours follow the edges of voxels, so that their area is the mask's. A hole is cut in by a keyhole (PS3.3
C.8.8.6.3). It must never smooth: what is planned on is what was found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from appliance.errors import ResultRejected
from appliance.finding import Finding
from appliance.job import ResultContext
from appliance.volume import Volume
from dicom_nodes import origin
from dicom_nodes.label_maps import LabelMap, Segments
from dicom_nodes.label_maps import segments as find_segments
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_classes import RT_STRUCTURE_SET
from dicom_nodes.source import SourceHeaders
from dicom_nodes.voxel_edges import keyholed

DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management (Retired), as PS3.3 C.8.8.5 wants it


def write_contours(
    label_map: LabelMap,
    volume: Volume,
    findings: Sequence[Finding],
    source: SourceHeaders,
    context: ResultContext,
) -> bytes:
    """Return a complete Part 10 file, the same bytes for the same arguments; an ROI for each finding with voxels.

    Raises ResultRejected where the label map is empty or does not fit the volume.
    """
    segments = find_segments(label_map, volume, findings)
    if not segments.findings:
        raise ResultRejected("the label map is empty: there are no contours to write")
    ds = origin.started(RT_STRUCTURE_SET, "RTSTRUCT")
    ds.StructureSetLabel, ds.StructureSetName = "AI_CONTOURS", context.title[: origin.LONGEST_LO]
    ds.StructureSetDescription = f"{context.package} {context.package_version}"
    with lenient():
        origin.stamp(ds, source, context, origin.CONTOURS_SERIES)
        ds.StructureSetDate, ds.StructureSetTime = ds.ContentDate, ds.ContentTime
        del ds.ContentDate, ds.ContentTime
        origin.put(ds, "FrameOfReferenceUID", volume.frame_of_reference_uid)
        ds.PositionReferenceIndicator = ds.OperatorsName = ""
        ds.ApprovalStatus = "UNAPPROVED"
        ds.ReferencedFrameOfReferenceSequence = [_frame_of_reference(volume, source)]
        ds.StructureSetROISequence = [_roi(n, one, volume) for n, one in enumerate(segments.findings, 1)]
        ds.ROIContourSequence = [
            _contours(n, one, label_map, volume, source, segments) for n, one in enumerate(segments.findings, 1)
        ]
        ds.RTROIObservationsSequence = [_observation(n, one) for n, one in enumerate(segments.findings, 1)]
        return origin.part10(ds, {})


def _frame_of_reference(volume: Volume, source: SourceHeaders) -> Dataset:
    """Return the images on which contours are drawn, by study and series."""
    series, study, item = Dataset(), Dataset(), Dataset()
    origin.put(series, "SeriesInstanceUID", volume.series_instance_uid)
    series.ContourImageSequence = [_image(*one) for one in source.instances]
    origin.put(study, "ReferencedSOPClassUID", DETACHED_STUDY)
    origin.put(study, "ReferencedSOPInstanceUID", source.header["StudyInstanceUID"].value)
    study.RTReferencedSeriesSequence = [series]
    origin.put(item, "FrameOfReferenceUID", volume.frame_of_reference_uid)
    item.RTReferencedStudySequence = [study]
    return item


def _image(sop_class_uid: str, sop_instance_uid: str, frame: int | None = None) -> Dataset:
    item = Dataset()
    origin.put(item, "ReferencedSOPClassUID", sop_class_uid)
    origin.put(item, "ReferencedSOPInstanceUID", sop_instance_uid)
    if frame is not None:
        item.ReferencedFrameNumber = frame
    return item


def _roi(number: int, finding: Finding, volume: Volume) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ROIName = number, finding.name[: origin.LONGEST_LO]
    origin.put(item, "ReferencedFrameOfReferenceUID", volume.frame_of_reference_uid)
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    return item


def _contours(
    number: int, finding: Finding, label_map: LabelMap, volume: Volume, source: SourceHeaders, segments: Segments
) -> Dataset:
    """Return the contours of one finding, slice by slice."""
    item = Dataset()
    item.ROIDisplayColor, item.ReferencedROINumber = list(finding.rgb), number
    item.ContourSequence = [
        _contour(ring, k, volume, source)
        for k in map(int, np.flatnonzero(segments.voxels[number - 1]))
        for ring in keyholed(label_map[k] == finding.segment_number)
    ]
    return item


def _contour(ring: npt.NDArray[np.int64], k: int, volume: Volume, source: SourceHeaders) -> Dataset:
    """Return one closed contour of (row, column) corners of voxels, in patient space (mm)."""
    corners = np.c_[np.full(len(ring), k), ring - 0.5, np.ones(len(ring))]
    places = (corners @ volume.affine.T)[:, :3]
    frame, item = source.frames[k], Dataset()
    item.ContourImageSequence = [_image(frame.sop_class_uid, frame.sop_instance_uid, frame.frame)]
    item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(places)
    item.ContourData = [format_number_as_ds(round(float(value), 4)) for value in places.ravel()]
    return item


def _observation(number: int, finding: Finding) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.RTROIInterpretedType, item.ROIInterpreter = "", ""
    item.RTROIIdentificationCodeSequence = [origin.coded(finding.code)]
    return item

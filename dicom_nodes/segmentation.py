"""Label map → one DICOM Segmentation (PS3.3 A.51), BINARY, a segment for each finding.

highdicom makes the object around a single frame, so that modules and codes are its; all frames are then put in
as bytes (segment_frames.py), and what depends on clock or chance is replaced from the context. It must never
change a voxel: what is read back equals the label map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom import Dataset

from appliance.errors import ResultRejected
from appliance.finding import Finding
from appliance.job import ObjectReference, ResultContext
from appliance.volume import Volume
from dicom_nodes import codes, origin
from dicom_nodes.codes import concept
from dicom_nodes.elements import in_pieces
from dicom_nodes.label_maps import LabelMap
from dicom_nodes.label_maps import segments as find_segments
from dicom_nodes.multiframe import Pieces, finish, identity, stand_in, take_out_frame, with_references
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_classes import SEGMENTATION
from dicom_nodes.segment_frames import (
    SegmentFrame,
    evened,
    frames_of,
    packed_bits,
    per_frame_groups,
    slice_groups,
)
from dicom_nodes.source import SourceHeaders

CONTENT_LABEL = "AI_SEG"


@dataclass(frozen=True)
class SegmentReference:
    """Where one finding is to be found: a Segmentation and its Segment Number."""

    object: ObjectReference
    number: int

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID of the Segmentation."""
        return self.object.sop_class_uid

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID of the Segmentation."""
        return self.object.sop_instance_uid


def segment_references(
    findings: Sequence[Finding],
    context: ResultContext,
    series: origin.Series = origin.SEGMENTATION_SERIES,
    sop_class_uid: str = SEGMENTATION,
) -> dict[int, SegmentReference]:
    """Return label → reference for findings that have voxels, as write_segmentation numbers them."""
    held = origin.reference(context, series, sop_class_uid)
    labels = sorted(one.segment_number for one in findings if one.segment_number)
    return {label: SegmentReference(held, number) for number, label in enumerate(labels, 1)}


def write_segmentation(
    label_map: LabelMap,
    volume: Volume,
    findings: Sequence[Finding],
    source: SourceHeaders,
    context: ResultContext,
    series: origin.Series = origin.SEGMENTATION_SERIES,
) -> origin.Encoded:
    """Return a complete Part 10 file, the same bytes for the same arguments.

    `label_map` is (k, j, i) on the grid of `volume`, 0 background; `series` names what it shows. Raises
    ResultRejected when it is on another grid, is empty or holds a label without finding.
    """
    segments = find_segments(label_map, volume, findings)
    frames = frames_of(segments)
    if not frames:
        raise ResultRejected("the label map is empty: there is no segmentation to write")
    frames = evened(frames, segments, label_map[0].size)
    with lenient():
        ds = _template(volume, segments.findings, source, context)
        finish(ds, volume, source, context, series)
        ds.NumberOfFrames = len(frames)
        return origin.large_part10(ds, _bulk(label_map, frames, volume, source))


def _bulk(
    label_map: LabelMap, frames: Sequence[SegmentFrame], volume: Volume, source: SourceHeaders
) -> dict[int, Pieces]:
    """Return what there is one of for each image or frame: tag → encoded element."""
    bits = len(frames) * label_map[0].size
    pixels = in_pieces(0x7FE00010, b"OB", -(-bits // 8), packed_bits(label_map, frames))
    return with_references(per_frame_groups(frames, source), pixels, volume, source)


def write_label_map(
    label_map: LabelMap,
    volume: Volume,
    findings: Sequence[Finding],
    source: SourceHeaders,
    context: ResultContext,
) -> origin.Encoded:
    """Return the same as a Label Map Segmentation (PS3.3 A.51, supplement 243): a frame a slice, a pixel a number.

    Fifty times smaller for many segments, and unknown to many a PACS and viewer. Segment Numbers are those of
    write_segmentation. Background has no item of its own: a viewer that counts items would shift all colours.
    """
    segments = find_segments(label_map, volume, findings)
    if not segments.findings:
        raise ResultRejected("the label map is empty: there is no segmentation to write")
    number = np.zeros(256, np.uint8)
    for one in segments.findings:
        number[one.segment_number] = segments.number(one)
    slices = [int(k) for k in np.flatnonzero(segments.voxels.sum(axis=0))]
    with lenient():
        ds = _template(volume, segments.findings, source, context, hd.seg.SegmentationTypeValues.LABELMAP)
        ds.SegmentSequence = [one for one in ds.SegmentSequence if one.SegmentNumber != 0]
        ds.add_new(0x00280120, "US", 0)  # Pixel Padding Value: background
        finish(ds, volume, source, context, origin.LABEL_MAP_SERIES)
        ds.NumberOfFrames = len(slices)
        planes = (number[label_map[k]].tobytes() for k in slices)
        pixels = in_pieces(0x7FE00010, b"OB", len(slices) * label_map[0].size, planes)
        return origin.large_part10(ds, with_references(slice_groups(slices, source), pixels, volume, source))


def _template(
    volume: Volume,
    findings: Sequence[Finding],
    source: SourceHeaders,
    context: ResultContext,
    kind: hd.seg.SegmentationTypeValues = hd.seg.SegmentationTypeValues.BINARY,
) -> Dataset:
    """Return highdicom's Segmentation of one frame, without its frame."""
    image = stand_in(volume, source)
    plane = np.zeros((1, image.Rows, image.Columns), np.uint8)
    plane[0, 0, 0] = 1
    ds = hd.seg.Segmentation(
        source_images=[image],
        pixel_array=plane,
        segmentation_type=kind,
        segment_descriptions=[_segment(n, finding, context) for n, finding in enumerate(findings, 1)],
        content_label=CONTENT_LABEL,
        **identity(volume, context),
    )
    take_out_frame(ds)
    return ds


def _segment(number: int, finding: Finding, context: ResultContext) -> hd.seg.SegmentDescription:
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=finding.name[: origin.LONGEST_LO],
        segmented_property_category=concept(finding.category),
        segmented_property_type=concept(finding.code),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm(context),
        tracking_uid=finding.tracking_uid,
        tracking_id=tracking_id(finding, context),
        anatomic_regions=[concept(finding.site)] if finding.site else None,
        display_color=hd.color.CIELabColor.from_rgb(*finding.rgb),
    )
    if finding.laterality and finding.site:
        described.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [concept(finding.laterality)]
    elif finding.laterality:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [concept(finding.laterality)]
    return described


def tracking_id(finding: Finding, context: ResultContext) -> str:
    """Return the Tracking Identifier, the same in every object of one result."""
    return f"{context.package} {finding.name}"


def algorithm(context: ResultContext) -> hd.AlgorithmIdentificationSequence:
    """Return the Algorithm Identification (PS3.3 Table 10-19) with package, version and digest."""
    return hd.AlgorithmIdentificationSequence(
        name=context.package,
        family=concept(codes.ARTIFICIAL_INTELLIGENCE),
        version=context.package_version,
        source=origin.MANUFACTURER,
        parameters=origin.provenance(context),
    )

"""Findings drawn on the images as a Grayscale Softcopy Presentation State (PS3.3 A.33.1): outlines and names.

For viewers that apply presentation states. It must never change how the images themselves are windowed for
measuring: the window it proposes is the one of our pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset

from appliance.errors import ResultRejected
from appliance.finding import Finding
from appliance.job import ResultContext
from appliance.volume import SourceFrame, Volume
from dicom_nodes import origin
from dicom_nodes.contours import Polygon, outlines
from dicom_nodes.key_slices import key_slices, window
from dicom_nodes.label_maps import LabelMap
from dicom_nodes.label_maps import segments as find_segments
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_classes import PRESENTATION_STATE
from dicom_nodes.source import SourceHeaders

LAYER = "AI"
COPIED = ("BodyPartExamined", "Laterality")


def write_presentation(
    label_map: LabelMap,
    volume: Volume,
    findings: Sequence[Finding],
    source: SourceHeaders,
    context: ResultContext,
) -> bytes:
    """Return a complete Part 10 file that draws the key slices' findings, the same bytes for the same arguments."""
    segments = find_segments(label_map, volume, findings)
    keys = key_slices(segments)
    if not keys:
        raise ResultRejected("the label map is empty: there is nothing to draw")
    ds = origin.started(PRESENTATION_STATE, "PR")
    with lenient():
        origin.stamp(ds, source, context, origin.PRESENTATION_SERIES)
        for keyword in COPIED:
            if keyword in source.header:
                origin.put(ds, keyword, source.header[keyword].value)
        ds.PresentationCreationDate, ds.PresentationCreationTime = ds.ContentDate, ds.ContentTime
        del ds.ContentDate, ds.ContentTime
        ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "AI_FINDINGS", context.title[:64], ""
        frames = [source.frames[k] for k in keys]
        ds.ReferencedSeriesSequence = [_series(volume, frames)]
        ds.GraphicAnnotationSequence = [
            _annotation(k, label_map, [one for one in segments.findings if segments.key_slice(one) == k], source)
            for k in keys
        ]
        ds.GraphicLayerSequence = [_layer(context)]
        ds.DisplayedAreaSelectionSequence = [_displayed(volume, source)]
        ds.SoftcopyVOILUTSequence = [_window(label_map, volume)]
        ds.PresentationLUTShape = "IDENTITY"
        return origin.part10(ds, {})


def _series(volume: Volume, frames: Sequence[SourceFrame]) -> Dataset:
    item = Dataset()
    origin.put(item, "SeriesInstanceUID", volume.series_instance_uid)
    item.ReferencedImageSequence = [_image([one]) for one in _by_instance(frames)]
    return item


def _by_instance(frames: Sequence[SourceFrame]) -> list[SourceFrame]:
    """Return frames; of those of one multi-frame image, all under one reference would do, each by itself does too."""
    seen: dict[str, SourceFrame] = {}
    for one in frames:
        seen.setdefault(one.sop_instance_uid, one)
    return [SourceFrame(one.sop_class_uid, one.sop_instance_uid) for one in seen.values()]


def _image(frames: Sequence[SourceFrame]) -> Dataset:
    item, first = Dataset(), frames[0]
    origin.put(item, "ReferencedSOPClassUID", first.sop_class_uid)
    origin.put(item, "ReferencedSOPInstanceUID", first.sop_instance_uid)
    if first.frame is not None:
        item.ReferencedFrameNumber = [one.frame for one in frames]
    return item


def _annotation(k: int, label_map: LabelMap, findings: Sequence[Finding], source: SourceHeaders) -> Dataset:
    """Return what is drawn in one slice."""
    item = Dataset()
    item.ReferencedImageSequence = [_image([source.frames[k]])]
    item.GraphicLayer = LAYER
    rings = [(one, ring) for one in findings for ring in outlines(label_map[k] == one.segment_number)]
    item.GraphicObjectSequence = [_line(ring) for _, ring in rings]
    item.TextObjectSequence = [
        _name(one, outlines(label_map[k] == one.segment_number)[0])
        for one in findings
    ]  # fmt: skip
    return item


def _line(ring: Polygon) -> Dataset:
    """Return a closed polyline; pixel (row, column) has its centre at column + 0.5, row + 0.5 (PS3.3 C.10.5.1.2)."""
    item = Dataset()
    item.GraphicAnnotationUnits, item.GraphicDimensions = "PIXEL", 2
    item.NumberOfGraphicPoints, item.GraphicType, item.GraphicFilled = len(ring), "POLYLINE", "N"
    item.GraphicData = [float(value) for value in (ring + 0.5).astype(np.float32).ravel()]
    return item


def _name(finding: Finding, ring: Polygon) -> Dataset:
    item = Dataset()
    item.AnchorPointAnnotationUnits, item.AnchorPointVisibility = "PIXEL", "Y"
    item.UnformattedTextValue = finding.name
    right = ring[ring[:, 0].argmax()] + 0.5
    item.AnchorPoint = [float(value) for value in right]
    return item


def _layer(context: ResultContext) -> Dataset:
    item = Dataset()
    item.GraphicLayer, item.GraphicLayerOrder = LAYER, 1
    item.GraphicLayerDescription = origin.NOT_CLINICAL if context.not_for_clinical_use else "made by software"
    return item


def _displayed(volume: Volume, source: SourceHeaders) -> Dataset:
    item, plane = Dataset(), source.planes[0]
    item.DisplayedAreaTopLeftHandCorner = [1, 1]
    item.DisplayedAreaBottomRightHandCorner = [plane.columns, plane.rows]
    item.PresentationSizeMode = "SCALE TO FIT"
    _, row_mm, column_mm = volume.spacing_mm
    item.PresentationPixelSpacing = [f"{row_mm:.8g}", f"{column_mm:.8g}"]
    return item


def _window(label_map: LabelMap, volume: Volume) -> Dataset:
    item = Dataset()
    low, high = window(label_map, volume)
    item.WindowCenter, item.WindowWidth = f"{(low + high) / 2:.6g}", f"{max(1.0, high - low):.6g}"
    return item

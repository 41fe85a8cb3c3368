"""Findings → one Comprehensive 3D SR, TID 1500 Measurement Report (PS3.16).

Each finding is in it twice under one tracking UID: as the segment with its measurements (TID 1411), and as its
outline on the slice where it is largest (TID 1410), because viewers draw outlines but not every one of them opens
segments. The numbers are the findings', never measured here. No value may depend on clock or chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom import sr
from pydicom import Dataset

from appliance.finding import ML, PERCENT, VOLUME, Finding, Measurement
from appliance.job import ResultContext
from appliance.volume import Volume
from dicom_nodes import codes, origin
from dicom_nodes.codes import concept
from dicom_nodes.contours import outlines
from dicom_nodes.elements import references, sequence, text
from dicom_nodes.label_maps import LabelMap, Segments
from dicom_nodes.label_maps import segments as find_segments
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.segmentation import SOP_CLASS_UID as SEGMENTATION_STORAGE
from dicom_nodes.segmentation import tracking_id
from dicom_nodes.source import SourceHeaders

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.88.34"
NO_REVIEW = "Made by software without a physician's review."
PLACEHOLDER = "1.2.3"


Input = tuple[str, Sequence[tuple[str, str]]]  # Series Instance UID, its (SOP Class UID, SOP Instance UID)


@dataclass(frozen=True)
class _Content:
    """What every part of the report is made from."""

    label_map: LabelMap
    volume: Volume
    source: SourceHeaders
    context: ResultContext
    segments: Segments
    algorithm: sr.AlgorithmIdentification
    with_segmentation: bool
    inputs: Sequence[Input]
    pictures: Sequence[tuple[str, str, str]]  # further results of the set: SOP Class, SOP Instance, Series UID


def write_report(
    findings: Sequence[Finding],
    label_map: LabelMap,
    volume: Volume,
    source: SourceHeaders,
    context: ResultContext,
    segmentation: bytes | None = None,
    inputs: Sequence[Input] = (),
    pictures: Sequence[tuple[str, str, str]] = (),
) -> bytes:
    """Return a complete Part 10 file, the same bytes for the same arguments.

    `inputs`: all images that were read, where they are more than those of `source`; `pictures`: SOP Class, SOP
    Instance and Series Instance UID of what else belongs to the result set. `segmentation` is what
    write_segmentation made of the same arguments, or None where there is none: then each finding stands with its
    outline only. A finding without a voxel is coded as absent. Raises ResultRejected when the label map is on
    another grid than the volume or holds a label that is no finding's.
    """
    segments = find_segments(label_map, volume, findings)
    read = inputs or [(volume.series_instance_uid, source.instances)]
    content = _Content(
        label_map, volume, source, context, segments, _algorithm(context), segmentation is not None, read, pictures
    )
    with lenient():
        keys = sorted({segments.key_slice(finding) for finding in segments.findings})
        images = [_image(source, volume, k) for k in keys]
        groups: list[Any] = []
        for finding in segments.findings:
            if content.with_segmentation:
                groups.append(_segment_group(finding, content))
            groups.append(_outline_group(finding, content))
        for finding in findings:
            if not finding.segment_number:
                groups.append(_group_of_the_whole(finding, content))
            groups += _curve_groups(finding, content)
        ds = _document(groups, images, content)
        ds.ContentSequence.extend([*_absent(findings, content), *_comments(findings, content)])
        origin.stamp(ds, source, context, origin.REPORT_SERIES)
        del ds.CurrentRequestedProcedureEvidenceSequence
        return origin.part10(ds, {0x0040A375: _evidence(content)})


def _document(groups: Sequence[Any], images: Sequence[Dataset], content: _Content) -> Dataset:
    """Return highdicom's document around the measurement groups."""
    procedure = codes.PROCEDURE_REPORTED.get(content.volume.modality, codes.ANY_PROCEDURE)
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(content.context)),
        procedure_reported=concept(procedure),
        imaging_measurements=groups or [_stand_in()],
        title=concept(codes.IMAGING_MEASUREMENT_REPORT),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(concept(codes.ENGLISH)),
        referenced_images=images,
    )
    ds = sr.Comprehensive3DSR(
        evidence=[_segmentation(content.context)],
        content=_root(report[0]),
        series_instance_uid=PLACEHOLDER,
        series_number=1,
        sop_instance_uid=PLACEHOLDER,
        instance_number=1,
        manufacturer=origin.MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    ds.ContentSequence = report[0].ContentSequence
    if not groups:
        del ds.ContentSequence[-1]  # highdicom wants a group; a report of nothing has none
    return ds


def _stand_in() -> sr.MeasurementsAndQualitativeEvaluations:
    return sr.MeasurementsAndQualitativeEvaluations(sr.TrackingIdentifier(PLACEHOLDER, PLACEHOLDER))


def _root(whole: Any) -> sr.ContainerContentItem:
    """Return the root item with its language only: highdicom copies and searches the content several times."""
    root = sr.ContainerContentItem(whole.name, template_id="1500")
    root.ContentSequence = whole.ContentSequence[:1]
    return root


def _observer(context: ResultContext) -> sr.ObserverContext:
    """Return the device observer (TID 1002, 1004): this appliance."""
    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=context.appliance_uid,
        name=context.appliance_name,
        manufacturer_name=origin.MANUFACTURER,
        model_name=origin.model_name(context),
        serial_number=context.appliance_uid,
    )
    return sr.ObserverContext(concept(codes.DEVICE), attributes)


def _segment_group(finding: Finding, content: _Content) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Return the segment and its measurements (TID 1411)."""
    series = sr.SourceSeriesForSegmentation(content.volume.series_instance_uid)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=sr.ReferencedSegment(
            SEGMENTATION_STORAGE,
            content.context.uid(origin.SEGMENTATION_SERIES.role),
            content.segments.number(finding),
            source_series=series,
        ),
        measurements=_measurements(finding) or None,
        **_common_rows(finding, content),
    )


def _group_of_the_whole(finding: Finding, content: _Content) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return what was found of the study as a whole, present or absent, with its probability (TID 1501)."""
    said = sr.QualitativeEvaluation(concept(finding.code), concept(codes.PRESENT if finding.present else codes.ABSENT))
    return sr.MeasurementsAndQualitativeEvaluations(
        measurements=_measurements(finding) or None,
        qualitative_evaluations=[said] if finding.probability is not None else None,
        **_common_rows(finding, content),
    )


def _curve_groups(finding: Finding, content: _Content) -> list[sr.MeasurementsAndQualitativeEvaluations]:
    """Return the volume at each moment of a beat, timed from the R-wave (TID 1501 with TID 1502)."""
    groups = []
    for n, (ms, ml) in enumerate(finding.curve, start=1):
        since = sr.LongitudinalTemporalOffsetFromEvent(round(ms, 3), concept(codes.MILLISECOND), concept(codes.R_WAVE))
        moment = sr.TimePointContext(time_point=f"phase {n}", time_point_order=n, temporal_offset_from_event=since)
        groups.append(
            sr.MeasurementsAndQualitativeEvaluations(
                time_point_context=moment,
                measurements=[_measurement(Measurement(VOLUME, ml, ML))],
                **_common_rows(finding, content),
            )
        )
    return groups


def _measurements(finding: Finding) -> list[sr.Measurement]:
    """Return a finding's numbers, its probability the last."""
    found = [*finding.measurements]
    if finding.probability is not None:
        found.append(Measurement(codes.CERTAINTY, 100 * finding.probability, PERCENT))
    return [_measurement(one) for one in found]


def _outline_group(finding: Finding, content: _Content) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """Return the outline of the largest part in the key slice (TID 1410)."""
    k = content.segments.key_slice(finding)
    frame = content.source.frames[k]
    image = sr.SourceImageForRegion(
        frame.sop_class_uid, frame.sop_instance_uid, [frame.frame] if frame.frame is not None else None
    )
    ring = outlines(content.label_map[k] == finding.segment_number)[0]
    measured = [] if content.with_segmentation else _measurements(finding)
    area = _measurement(_slice_area(finding, k, content))
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, ring.astype(np.float32), image),
        measurements=[*measured, area],
        **_common_rows(finding, content),
    )


def _common_rows(finding: Finding, content: _Content) -> dict[str, Any]:
    """Return the rows that both groups of one finding share."""
    identifier = tracking_id(finding, content.context)
    return {
        "tracking_identifier": sr.TrackingIdentifier(finding.tracking_uid, identifier),
        "finding_category": concept(finding.category),
        "finding_type": concept(finding.code),
        "finding_sites": _sites(finding),
        "algorithm_id": content.algorithm,
    }


def _sites(finding: Finding) -> list[sr.FindingSite] | None:
    """Return where the finding is, with its side."""
    place = finding.site or (finding.code if finding.laterality else None)
    if place is None:
        return None
    return [sr.FindingSite(concept(place), concept(finding.laterality) if finding.laterality else None)]


def _algorithm(context: ResultContext) -> sr.AlgorithmIdentification:
    """Return TID 4019 with package, version, digest, engine and job as parameters."""
    return sr.AlgorithmIdentification(
        name=context.package,
        version=context.package_version,
        parameters=[f"{name}={value}" for name, value in origin.provenance(context).items()],
        family=concept(codes.ARTIFICIAL_INTELLIGENCE),
    )


def _measurement(one: Measurement) -> sr.Measurement:
    return sr.Measurement(concept(one.name), float(f"{one.value:.8g}"), concept(one.unit))


def _slice_area(finding: Finding, k: int, content: _Content) -> Measurement:
    """Return the area of all voxels of the segment in one slice, mm²."""
    _, between_rows, between_columns = content.volume.spacing_mm
    voxels = int((content.label_map[k] == finding.segment_number).sum())
    return Measurement(codes.AREA, voxels * between_rows * between_columns, codes.SQUARE_MM)


def _image(source: SourceHeaders, volume: Volume, k: int) -> Dataset:
    """Return a stand-in for the image of one slice: what evidence and image library say of it."""
    plane, frame, ds = source.planes[k], source.frames[k], _nobody()
    origin.put(ds, "SOPClassUID", frame.sop_class_uid)
    origin.put(ds, "SOPInstanceUID", frame.sop_instance_uid)
    ds.Rows, ds.Columns, ds.Modality = plane.rows, plane.columns, source.header.get("Modality", "OT")
    ds.ImagePositionPatient, ds.ImageOrientationPatient = list(plane.position or ()), list(plane.orientation or ())
    ds.PixelSpacing = list(plane.pixel_spacing or ())
    ds.SliceThickness = source.header.get("SliceThickness") or volume.spacing_mm[0]
    return ds


def _nobody() -> Dataset:
    """Return a dataset with the elements that highdicom copies, empty: the true ones are put in at the end."""
    ds = Dataset()
    for keyword in origin.REQUIRED:
        setattr(ds, keyword, "")
    ds.StudyInstanceUID = PLACEHOLDER
    return ds


def _segmentation(context: ResultContext) -> Dataset:
    """Return a stand-in for the Segmentation."""
    ds = _nobody()
    ds.SeriesInstanceUID = context.uid("seg-series")
    ds.SOPClassUID, ds.SOPInstanceUID = SEGMENTATION_STORAGE, context.uid("seg")
    return ds


def _absent(findings: Sequence[Finding], content: _Content) -> list[sr.ContainerContentItem]:
    """Return the findings without a voxel, coded as absent (TID 1500, Qualitative Evaluations)."""
    there = content.segments.findings
    absent = [finding for finding in findings if finding.segment_number and finding not in there]
    if not absent:
        return []
    contains = sr.RelationshipTypeValues.CONTAINS
    container = sr.ContainerContentItem(concept(codes.QUALITATIVE_EVALUATIONS), relationship_type=contains)
    container.ContentSequence = sr.ContentSequence(
        [sr.CodeContentItem(concept(finding.code), concept(codes.ABSENT), contains) for finding in absent]
    )
    return [container]


def _comments(findings: Sequence[Finding], content: _Content) -> list[sr.TextContentItem]:
    """Return what a reader must know beside the numbers, as text items (TID 1500 is extensible)."""
    context = content.context
    said = [f"Not for clinical use. {NO_REVIEW}" if context.not_for_clinical_use else NO_REVIEW]
    of_the_whole = any(one.present and not one.segment_number for one in findings)
    if not content.segments.findings and not of_the_whole:
        said.append("Nothing was found.")
    for point in sorted({one.operating_point for one in findings if one.operating_point is not None}):
        said.append(f"Reported as present from a probability of {100 * point:g} % on.")
    if content.volume.frame_of_reference_derived:
        said.append("The images have no common Frame of Reference; the one used here was made for this series.")
    said.append(_computed_by(context))
    if context.supersedes:
        said.append(f"Supersedes: {', '.join(context.supersedes)}.")
    contains = sr.RelationshipTypeValues.CONTAINS
    return [sr.TextContentItem(concept(codes.COMMENT), one, contains) for one in said]


def _computed_by(context: ResultContext) -> str:
    """Return which engine ran, and why none above it."""
    ran = f"Computed by {context.engine} {context.precision}"
    located = f", where {context.located_by} found the region" if context.located_by else ""
    passed_over = "; ".join(f"{rung} ({reason})" for rung, reason in context.skipped)
    return f"{ran}{located}. Not used: {passed_over}." if passed_over else f"{ran}{located}."


def _evidence(content: _Content) -> bytes:
    """Return Current Requested Procedure Evidence: every image and every other result (PS3.3 C.17.2)."""
    made = (SEGMENTATION_STORAGE, content.context.uid("seg"))
    images = [_evidence_series(series, instances) for series, instances in content.inputs]
    results = [_evidence_series(content.context.uid("seg-series"), [made])] if content.with_segmentation else []
    results += [_evidence_series(series, [(kind, one)]) for kind, one, series in content.pictures]
    study = text(0x0020000D, b"UI", content.source.header["StudyInstanceUID"].value)
    return sequence(0x0040A375, sequence(0x00081115, *images, *results) + study)


def _evidence_series(series_instance_uid: str, instances: Sequence[tuple[str, str]]) -> bytes:
    return sequence(0x00081199, *references(instances)) + text(0x0020000E, b"UI", series_instance_uid)

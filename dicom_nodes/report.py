"""Findings → one Comprehensive 3D SR, TID 1500 Measurement Report (PS3.16): the root of a job's result set.

Each finding is in it twice under one tracking UID: as the segment with its measurements (TID 1411), and as its
outline on the slice where it is largest (TID 1410), because viewers draw outlines but not every one of them opens
segments. Every report says in a code whether something was found, nothing was found, or nothing could be computed
(CID 6047). No value may depend on clock or chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from highdicom import sr
from pydicom import Dataset

from appliance.finding import Code, Finding
from appliance.growth import sentence_of
from appliance.job import ObjectReference, ResultContext
from appliance.volume import Volume
from dicom_nodes import codes, origin
from dicom_nodes.codes import concept
from dicom_nodes.elements import references, sequence, text
from dicom_nodes.key_slices import key_slices
from dicom_nodes.label_maps import LabelMap
from dicom_nodes.label_maps import segments as find_segments
from dicom_nodes.measurement_groups import Content, groups_of
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_classes import COMPREHENSIVE_3D_SR
from dicom_nodes.segmentation import SegmentReference
from dicom_nodes.source import SourceHeaders

NO_REVIEW = "Made by software without a physician's review."
PLACEHOLDER = "1.2.3"

Input = tuple[str, Sequence[tuple[str, str]]]  # Series Instance UID, its (SOP Class UID, SOP Instance UID)
NOTHING_HELD: Mapping[int, SegmentReference] = {}


@dataclass(frozen=True)
class Companion:
    """Another object of the result set, and what it is to the report (PS3.16 CID 7003 and others)."""

    at: ObjectReference
    purpose: Code
    is_image: bool


def write_report(
    findings: Sequence[Finding],
    label_map: LabelMap,
    volume: Volume,
    source: SourceHeaders,
    context: ResultContext,
    segments_in: Mapping[int, SegmentReference] = NOTHING_HELD,
    inputs: Sequence[Input] = (),
    companions: Sequence[Companion] = (),
    series: origin.Series = origin.REPORT_SERIES,
) -> bytes:
    """Return a complete Part 10 file, the same bytes for the same arguments.

    `segments_in`: label → where a Segmentation holds that finding; without it a finding stands with its outline
    only. `inputs`: all images that were read, where they are more than those of `source`. `companions`: the further
    objects of the result set, to which the report refers. A finding without a voxel is coded as absent. Raises
    ResultRejected when the label map is on another grid than the volume or holds a label that is no finding's.
    """
    segments = find_segments(label_map, volume, findings)
    content = Content(label_map, volume, source, context, segments, segments_in)
    there = bool(segments.findings) or any(one.present and not one.segment_number for one in findings)
    said = [*_remarks(findings, there, content), *_making(context)]
    with lenient():
        images = [_image(source, volume, k) for k in key_slices(segments)]
        groups = groups_of(findings, content)
        ds = _document(groups, images, volume.modality, context)
        absent = [one for one in findings if one.segment_number and one not in segments.findings]
        summary = codes.WITH_FINDINGS if there else codes.WITHOUT_FINDINGS
        ds.ContentSequence.extend([_evaluations(summary, absent), *_comments(said), *_pointers(companions)])
        read = inputs or [(volume.series_instance_uid, source.instances)]
        held = dict.fromkeys(one.object for one in segments_in.values())
        return _finished(ds, source, context, series, read, [*held, *(one.at for one in companions)])


def write_failure(reason: str, source: SourceHeaders, inputs: Sequence[Input], context: ResultContext) -> bytes:
    """Return the report of a study of which no result could be made, with the reason (CID 6047, 111245).

    `reason`: one sentence without patient data. A file like that of write_report; silence would look like normal.
    """
    with lenient():
        modality = str(source.header.get("Modality", "OT"))
        ds = _document([], [], modality, context)
        said = [_warning(context), f"No result: {reason}", *_superseding(context)]
        ds.ContentSequence.extend([_evaluations(codes.NOT_COMPUTED, []), *_comments(said)])
        return _finished(ds, source, context, origin.REPORT_SERIES, inputs, [])


def _finished(
    ds: Dataset,
    source: SourceHeaders,
    context: ResultContext,
    series: origin.Series,
    inputs: Sequence[Input],
    others: Sequence[ObjectReference],
) -> bytes:
    """Return the file: identity, evidence, predecessors, reports of earlier studies."""
    origin.stamp(ds, source, context, series)
    del ds.CurrentRequestedProcedureEvidenceSequence
    study = source.header["StudyInstanceUID"].value
    here = [*inputs, *((one.series_instance_uid, [_pair(one)]) for one in others)]
    encoded = {0x0040A375: sequence(0x0040A375, _evidence(study, here))}
    before = [one for one in context.supersedes if one.sop_class_uid == COMPREHENSIVE_3D_SR]
    if before:
        encoded[0x0040A360] = sequence(0x0040A360, *(_elsewhere(one) for one in before))
    told = sorted({one.report for one in context.priors}, key=lambda one: one.sop_instance_uid)
    if told:
        origin.name_own_codes(ds)
        encoded[0x0040A385] = sequence(0x0040A385, *(_elsewhere(one) for one in told))
    return origin.part10(ds, encoded)


def _pair(one: ObjectReference) -> tuple[str, str]:
    return one.sop_class_uid, one.sop_instance_uid


def _elsewhere(one: ObjectReference) -> bytes:
    return _evidence(one.study_instance_uid, [(one.series_instance_uid, [_pair(one)])])


def _evidence(study_instance_uid: str, by_series: Sequence[Input]) -> bytes:
    """Return an item of hierarchical references (PS3.3 Table C.17-3a), UIDs letter for letter."""
    listed = [_evidence_series(series, instances) for series, instances in by_series]
    return sequence(0x00081115, *listed) + text(0x0020000D, b"UI", study_instance_uid)


def _evidence_series(series_instance_uid: str, instances: Sequence[tuple[str, str]]) -> bytes:
    return sequence(0x00081199, *references(instances)) + text(0x0020000E, b"UI", series_instance_uid)


def _document(groups: Sequence[Any], images: Sequence[Dataset], modality: str, context: ResultContext) -> Dataset:
    """Return highdicom's document around the measurement groups."""
    procedure = codes.PROCEDURE_REPORTED.get(modality, codes.ANY_PROCEDURE)
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(context)),
        procedure_reported=concept(procedure),
        imaging_measurements=groups or [_stand_in()],
        title=concept(codes.IMAGING_MEASUREMENT_REPORT),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(concept(codes.ENGLISH)),
        referenced_images=images,
    )
    ds = sr.Comprehensive3DSR(
        evidence=[_nothing()],
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


def _nothing() -> Dataset:
    """Return a stand-in for evidence: highdicom wants some, the true one is put in at the end."""
    ds = _nobody()
    ds.SeriesInstanceUID = ds.SOPInstanceUID = PLACEHOLDER
    ds.SOPClassUID = COMPREHENSIVE_3D_SR
    return ds


def _evaluations(summary: Code, absent: Sequence[Finding]) -> sr.ContainerContentItem:
    """Return what is said of the whole: found, not found or not computed; and each finding that is absent."""
    contains = sr.RelationshipTypeValues.CONTAINS
    container = sr.ContainerContentItem(concept(codes.QUALITATIVE_EVALUATIONS), relationship_type=contains)
    said = [(codes.FINDINGS_SUMMARY, summary), *((one.code, codes.ABSENT) for one in absent)]
    container.ContentSequence = sr.ContentSequence(
        [sr.CodeContentItem(concept(name), concept(value), contains) for name, value in said]
    )
    return container


def _pointers(companions: Sequence[Companion]) -> list[Any]:
    """Return references to the other objects of the set: images, and documents."""
    contains = sr.RelationshipTypeValues.CONTAINS
    return [
        (sr.ImageContentItem if one.is_image else sr.CompositeContentItem)(
            concept(one.purpose), one.at.sop_class_uid, one.at.sop_instance_uid, relationship_type=contains
        )
        for one in companions
    ]


def _comments(said: Sequence[str]) -> list[sr.TextContentItem]:
    """Return what a reader must know beside the numbers, as text items (TID 1500 is extensible)."""
    contains = sr.RelationshipTypeValues.CONTAINS
    return [sr.TextContentItem(concept(codes.COMMENT), one, contains) for one in said]


def _warning(context: ResultContext) -> str:
    return f"Not for clinical use. {NO_REVIEW}" if context.not_for_clinical_use else NO_REVIEW


def _remarks(findings: Sequence[Finding], there: bool, content: Content) -> list[str]:
    """Return sentences on what was found."""
    said = [_warning(content.context)]
    if not there:
        said.append("Nothing was found.")
    for point in sorted({one.operating_point for one in findings if one.operating_point is not None}):
        said.append(f"Reported as present from a probability of {100 * point:g} % on.")
    day = origin.study_date(content.source)
    compared = (sentence_of(one, content.context.priors, day) for one in findings)
    said += [sentence for sentence in compared if sentence]
    if content.volume.frame_of_reference_derived:
        said.append("The images have no common Frame of Reference; the one used here was made for this series.")
    return said


def _making(context: ResultContext) -> list[str]:
    """Return sentences on what computed it, and what it replaces."""
    ran = f"Computed by {context.engine} {context.precision}"
    located = f", where {context.located_by} found the region" if context.located_by else ""
    passed_over = "; ".join(f"{rung} ({reason})" for rung, reason in context.skipped)
    not_used = f" Not used: {passed_over}." if passed_over else ""
    return [f"{ran}{located}.{not_used}", *_superseding(context)]


def _superseding(context: ResultContext) -> list[str]:
    uids = ", ".join(one.sop_instance_uid for one in context.supersedes)
    return [f"Supersedes: {uids}."] if uids else []

"""Findings → measurement groups of a TID 1500 report (PS3.16): TID 1411, 1410 and 1501 under one tracking UID.

The numbers are the findings', never measured here; an area of the outlined slice stands beside its outline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from highdicom import sr

from appliance.finding import ML, PERCENT, VOLUME, Finding, Measurement
from appliance.growth import changes
from appliance.job import ResultContext
from appliance.volume import Volume
from dicom_nodes import codes, origin
from dicom_nodes.codes import concept
from dicom_nodes.contours import outlines
from dicom_nodes.label_maps import LabelMap, Segments
from dicom_nodes.segmentation import SegmentReference, tracking_id
from dicom_nodes.source import SourceHeaders


@dataclass(frozen=True)
class Content:
    """What every measurement group is made from."""

    label_map: LabelMap
    volume: Volume
    source: SourceHeaders
    context: ResultContext
    segments: Segments
    segments_in: Mapping[int, SegmentReference]  # by label: where the segment is to be found


def groups_of(findings: Sequence[Finding], content: Content) -> list[Any]:
    """Return all measurement groups, in the order of findings: segment, outline, the whole, its curve."""
    groups: list[Any] = []
    for finding in content.segments.findings:
        if finding.segment_number in content.segments_in:
            groups.append(_segment_group(finding, content))
        groups.append(_outline_group(finding, content))
    for finding in findings:
        if not finding.segment_number:
            groups.append(_group_of_the_whole(finding, content))
        groups += _curve_groups(finding, content)
    return groups


def _segment_group(finding: Finding, content: Content) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Return the segment and its measurements (TID 1411)."""
    series = sr.SourceSeriesForSegmentation(content.volume.series_instance_uid)
    held = content.segments_in[finding.segment_number]
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=sr.ReferencedSegment(
            held.sop_class_uid, held.sop_instance_uid, held.number, source_series=series
        ),
        measurements=_measurements(finding, content) or None,
        **_common_rows(finding, content),
    )


def _group_of_the_whole(finding: Finding, content: Content) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return what was found of the study as a whole, present or absent, with its probability (TID 1501)."""
    said = sr.QualitativeEvaluation(concept(finding.code), concept(codes.PRESENT if finding.present else codes.ABSENT))
    return sr.MeasurementsAndQualitativeEvaluations(
        measurements=_measurements(finding, content) or None,
        qualitative_evaluations=[said] if finding.probability is not None else None,
        **_common_rows(finding, content),
    )


def _curve_groups(finding: Finding, content: Content) -> list[sr.MeasurementsAndQualitativeEvaluations]:
    """Return the volume at each moment of a beat, timed from the R-wave where that is known (TID 1501, TID 1502)."""
    groups = []
    for n, (ms, ml) in enumerate(finding.curve, start=1):
        since = None
        if ms is not None:
            units = concept(codes.MILLISECOND), concept(codes.R_WAVE)
            since = sr.LongitudinalTemporalOffsetFromEvent(round(ms, 3), *units)
        moment = sr.TimePointContext(time_point=f"phase {n}", time_point_order=n, temporal_offset_from_event=since)
        groups.append(
            sr.MeasurementsAndQualitativeEvaluations(
                time_point_context=moment,
                measurements=[_measurement(Measurement(VOLUME, ml, ML))],
                **_common_rows(finding, content),
            )
        )
    return groups


def _measurements(finding: Finding, content: Content) -> list[sr.Measurement]:
    """Return a finding's numbers, its probability, and what changed since an earlier study."""
    found = [*finding.measurements]
    if finding.probability is not None:
        found.append(Measurement(codes.CERTAINTY, 100 * finding.probability, PERCENT))
    found += changes(finding, content.context.priors, origin.study_date(content.source))
    return [_measurement(one) for one in found]


def _outline_group(finding: Finding, content: Content) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """Return the outline of the largest part in the key slice (TID 1410)."""
    k = content.segments.key_slice(finding)
    frame = content.source.frames[k]
    image = sr.SourceImageForRegion(
        frame.sop_class_uid, frame.sop_instance_uid, [frame.frame] if frame.frame is not None else None
    )
    ring = outlines(content.label_map[k] == finding.segment_number)[0]
    measured = [] if finding.segment_number in content.segments_in else _measurements(finding, content)
    area = _measurement(_slice_area(finding, k, content))
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, ring.astype(np.float32), image),
        measurements=[*measured, area],
        **_common_rows(finding, content),
    )


def _common_rows(finding: Finding, content: Content) -> dict[str, Any]:
    """Return the rows that both groups of one finding share."""
    identifier = tracking_id(finding, content.context)
    return {
        "tracking_identifier": sr.TrackingIdentifier(finding.tracking_uid, identifier),
        "finding_category": concept(finding.category),
        "finding_type": concept(finding.code),
        "finding_sites": _sites(finding),
        "algorithm_id": _algorithm(content.context),
    }


def _sites(finding: Finding) -> list[sr.FindingSite] | None:
    """Return where the finding is, with its side."""
    place = finding.site or (finding.code if finding.laterality else None)
    if place is None:
        return None
    return [sr.FindingSite(concept(place), concept(finding.laterality) if finding.laterality else None)]


@lru_cache(maxsize=1)
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


def _slice_area(finding: Finding, k: int, content: Content) -> Measurement:
    """Return the area of all voxels of the segment in one slice, mm²."""
    _, between_rows, between_columns = content.volume.spacing_mm
    voxels = int((content.label_map[k] == finding.segment_number).sum())
    return Measurement(codes.AREA, voxels * between_rows * between_columns, codes.SQUARE_MM)

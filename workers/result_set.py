"""Findings → the objects that go to the PACS: SR always, SEG where there are segments, more for a beating heart.

It must never touch the catalogue, the network or a clock; the writers of dicom_nodes make the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from appliance.finding import Finding
from appliance.job import ResultContext
from appliance.volume import Volume
from dicom_nodes import origin
from dicom_nodes.curve_picture import SECONDARY_CAPTURE, write_curve
from dicom_nodes.report import SOP_CLASS_UID as COMPREHENSIVE_3D_SR
from dicom_nodes.report import Input, write_report
from dicom_nodes.segmentation import SOP_CLASS_UID as SEG_STORAGE
from dicom_nodes.segmentation import write_segmentation
from dicom_nodes.source import SourceHeaders
from models.measure import beat_of
from models.outputs import CineSegmentation, Outputs
from models.reading import Labels, Reading


@dataclass(frozen=True)
class Moment:
    """One volume of each input, and their clean headers; both in the order of the package's inputs."""

    volumes: tuple[Volume, ...]
    sources: tuple[SourceHeaders, ...]


@dataclass(frozen=True)
class MadeObject:
    """One result object as bytes of a DICOM file."""

    role: str  # SEG, SR or SC: what a destination must accept
    name: str  # tells the objects of one job apart
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    content: bytes


def written(
    reading: Reading, moments: Sequence[Moment], findings: Sequence[Finding], outputs: Outputs, context: ResultContext
) -> tuple[MadeObject, ...]:
    """Write the result set; without a single finding, only the SR that says so."""
    if isinstance(outputs, CineSegmentation):
        return of_a_beat(reading, moments, findings, outputs, context)
    volume, source = moments[0].volumes[0], moments[0].sources[0]
    label_map = reading.label_maps[0] if reading.label_maps else np.zeros(volume.shape, np.uint8)
    made = []
    if any(one.voxels for one in findings):
        content = write_segmentation(label_map, volume, findings, source, context)
        made.append(named("SEG", SEG_STORAGE, origin.SEGMENTATION_SERIES, content, context))
    return report(findings, label_map, moments, 0, made, context)


def of_a_beat(
    reading: Reading,
    moments: Sequence[Moment],
    findings: Sequence[Finding],
    outputs: CineSegmentation,
    context: ResultContext,
) -> tuple[MadeObject, ...]:
    """Write SEG at end-diastole and end-systole, a series each, the volume curve, and the SR over all moments."""
    beat = beat_of(reading.label_maps, [one.volumes[0] for one in moments], outputs)
    made = []
    for at, series in ((beat.diastole, origin.SEGMENTATION_SERIES), (beat.systole, origin.SYSTOLE_SERIES)):
        volume, source, label_map = moments[at].volumes[0], moments[at].sources[0], reading.label_maps[at]
        shown = [one for one in findings if (label_map == one.segment_number).any()]
        only = np.where(np.isin(label_map, [one.segment_number for one in shown]), label_map, np.uint8(0))
        if shown:
            content = write_segmentation(only, volume, shown, source, context, series)
            made.append(named("SEG", SEG_STORAGE, series, content, context))
    curve = next((one.curve for one in findings if one.curve), ())
    picture = write_curve(curve, beat.diastole, beat.systole, moments[beat.diastole].sources[0], context)
    made.append(named("SC", SECONDARY_CAPTURE, origin.CURVE_SERIES, picture, context))
    return report(findings, reading.label_maps[beat.diastole], moments, beat.diastole, made, context)


def report(
    findings: Sequence[Finding],
    label_map: Labels,
    moments: Sequence[Moment],
    shown: int,
    made: Sequence[MadeObject],
    context: ResultContext,
) -> tuple[MadeObject, ...]:
    """Return the SR of all `findings`, first, and what was made before it; `shown`: the moment of `label_map`."""
    first = next((one.content for one in made if one.name == origin.SEGMENTATION_SERIES.role), None)
    others = [
        (one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid)
        for one in made
        if one.name != origin.SEGMENTATION_SERIES.role
    ]
    volume, source = moments[shown].volumes[0], moments[shown].sources[0]
    content = write_report(findings, label_map, volume, source, context, first, inputs_of(moments), others)
    return (named("SR", COMPREHENSIVE_3D_SR, origin.REPORT_SERIES, content, context), *made)


def inputs_of(moments: Sequence[Moment]) -> list[Input]:
    """Return every image that was read, by series, in the order of inputs, moments and slices."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    for n in range(len(moments[0].volumes)):
        for moment in moments:
            of_series = found.setdefault(moment.volumes[n].series_instance_uid, {})
            of_series.update(dict.fromkeys(moment.sources[n].instances))
    return [(series, list(instances)) for series, instances in found.items()]


def named(role: str, sop_class: str, series: origin.Series, content: bytes, context: ResultContext) -> MadeObject:
    """Return a result object under the UIDs that `origin.stamp` gave it."""
    return MadeObject(
        role, series.role, sop_class, context.uid(series.role), context.uid(f"{series.role}-series"), content
    )

"""Findings → the objects that go to the PACS: SR and SEG always, others where a destination takes them.

It must never touch the catalogue, the network or a clock; the writers of dicom_nodes make the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from appliance.finding import Finding
from appliance.job import ObjectReference, ResultContext
from appliance.volume import Volume
from dicom_nodes import codes, origin
from dicom_nodes.curve_picture import SECONDARY_CAPTURE, write_curve
from dicom_nodes.report import SOP_CLASS_UID as COMPREHENSIVE_3D_SR
from dicom_nodes.report import Companion, Input, write_report
from dicom_nodes.segmentation import SOP_CLASS_UID as SEG_STORAGE
from dicom_nodes.segmentation import SegmentReference, segment_references, write_segmentation
from dicom_nodes.source import SourceHeaders
from models.measure import beat_of
from models.outputs import CineSegmentation, Outputs
from models.reading import Labels, Reading

ALWAYS = frozenset({"SEG", "SR"})
IMAGES = frozenset({"SEG", "SC", "PMAP", "LABELMAP"})  # to an SR: images; the rest are composites
MOST_SEGMENTS = 20  # of one Segmentation; more are split, in the order of their numbers (docs/results.md)


@dataclass(frozen=True)
class Moment:
    """One volume of each input, and their clean headers; both in the order of the package's inputs."""

    volumes: tuple[Volume, ...]
    sources: tuple[SourceHeaders, ...]


@dataclass(frozen=True)
class MadeObject:
    """One result object as bytes of a DICOM file."""

    role: str  # SEG, SR, SC …: what a destination must accept
    name: str  # tells the objects of one job apart
    at: ObjectReference
    content: bytes


@dataclass(frozen=True)
class Shown:
    """What a segmentation shows: findings in the label map of one moment, and what that moment was read from."""

    findings: tuple[Finding, ...]
    label_map: Labels
    volume: Volume
    source: SourceHeaders

    def there(self) -> tuple[Finding, ...]:
        """Return the findings that have voxels at this moment."""
        return tuple(one for one in self.findings if (self.label_map == one.segment_number).any())


def written(
    reading: Reading,
    moments: Sequence[Moment],
    findings: Sequence[Finding],
    outputs: Outputs,
    context: ResultContext,
    wanted: frozenset[str] = ALWAYS,
) -> tuple[MadeObject, ...]:
    """Write the result set, the SR first; without a single finding, only the SR that says so.

    `wanted`: the roles that a destination of the job takes.
    """
    if isinstance(outputs, CineSegmentation):
        return of_a_beat(reading, moments, findings, outputs, context)
    volume, source = moments[0].volumes[0], moments[0].sources[0]
    label_map = reading.label_maps[0] if reading.label_maps else np.zeros(volume.shape, np.uint8)
    shown = Shown(tuple(findings), label_map, volume, source)
    parts, held = segmentations(shown, context)
    return report(shown, moments, parts, held, context)


def segmentations(shown: Shown, context: ResultContext) -> tuple[list[MadeObject], dict[int, SegmentReference]]:
    """Write the findings that have voxels, MOST_SEGMENTS in a Segmentation, each in a series of its own."""
    there = [one for one in shown.findings if one.voxels]
    made: list[MadeObject] = []
    held: dict[int, SegmentReference] = {}
    for n, first in enumerate(range(0, len(there), MOST_SEGMENTS)):
        part, series = there[first : first + MOST_SEGMENTS], origin.segmentation_series(n)
        made.append(segmentation(part, shown, series, context))
        held |= segment_references(part, context, series)
    return made, held


def segmentation(part: Sequence[Finding], shown: Shown, series: origin.Series, context: ResultContext) -> MadeObject:
    """Write one Segmentation of some findings."""
    label_map = only(part, shown.label_map) if len(part) < len(shown.findings) else shown.label_map
    content = write_segmentation(label_map, shown.volume, part, shown.source, context, series)
    return named("SEG", SEG_STORAGE, series, content, context)


def only(findings: Sequence[Finding], label_map: Labels) -> Labels:
    """Return the label map with these findings' voxels alone."""
    kept = np.zeros(256, np.uint8)
    for one in findings:
        kept[one.segment_number] = one.segment_number
    return kept[label_map]


def of_a_beat(
    reading: Reading,
    moments: Sequence[Moment],
    findings: Sequence[Finding],
    outputs: CineSegmentation,
    context: ResultContext,
) -> tuple[MadeObject, ...]:
    """Write SEG at end-diastole and end-systole, a series each, the volume curve, and the SR over all moments."""
    beat = beat_of(reading.label_maps, [one.volumes[0] for one in moments], outputs)
    made: list[MadeObject] = []
    diastole, systole = (
        Shown(tuple(findings), reading.label_maps[at], moments[at].volumes[0], moments[at].sources[0])
        for at in (beat.diastole, beat.systole)
    )
    for shown, series in ((diastole, origin.SEGMENTATION_SERIES), (systole, origin.SYSTOLE_SERIES)):
        if there := shown.there():
            made.append(segmentation(there, shown, series, context))
    held = segment_references(diastole.there(), context)
    curve = next((one.curve for one in findings if one.curve), ())
    picture = write_curve(curve, beat.diastole, beat.systole, diastole.source, context)
    made.append(named("SC", SECONDARY_CAPTURE, origin.CURVE_SERIES, picture, context))
    return report(diastole, moments, made, held, context)


def report(
    shown: Shown,
    moments: Sequence[Moment],
    made: Sequence[MadeObject],
    held: Mapping[int, SegmentReference],
    context: ResultContext,
) -> tuple[MadeObject, ...]:
    """Return the SR, which refers to all that was made before it, and these after it."""
    seen = {one.sop_instance_uid for one in held.values()}
    others = [
        Companion(one.at, codes.ILLUSTRATION, one.role in IMAGES) for one in made if one.at.sop_instance_uid not in seen
    ]
    content = write_report(
        shown.findings,
        shown.label_map,
        shown.volume,
        shown.source,
        context,
        held,
        inputs_of(moments),
        others,
    )
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
    return MadeObject(role, series.role, origin.reference(context, series, sop_class), content)

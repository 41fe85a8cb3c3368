"""Findings → the objects that go to the PACS: SR and SEG always, others where a destination takes them.

It must never touch the catalogue, the network or a clock; the writers of dicom_nodes make the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from appliance.finding import Finding
from appliance.job import ObjectReference, ResultContext
from appliance.volume import Volume
from dicom_nodes import codes, origin
from dicom_nodes.contour_set import write_contours
from dicom_nodes.curve_picture import write_curve
from dicom_nodes.header import read_header
from dicom_nodes.key_objects import write_key_images, write_retraction
from dicom_nodes.key_slices import drawn, key_slices
from dicom_nodes.label_maps import segments as find_segments
from dicom_nodes.page import write_page
from dicom_nodes.parametric_map import write_probability_map
from dicom_nodes.presentation import write_presentation
from dicom_nodes.report import Companion, Input, write_failure, write_report
from dicom_nodes.result_classes import BY_ROLE, LABEL_MAP
from dicom_nodes.secondary_capture import write_picture
from dicom_nodes.segmentation import (
    SegmentReference,
    segment_references,
    write_label_map,
    write_segmentation,
)
from dicom_nodes.source import SourceHeaders, cleaned
from dicom_nodes.validation import Expected, Held, check
from models.declaration import Declaration
from models.measure import beat_of
from models.outputs import CineSegmentation
from models.reading import Labels, Reading

ALWAYS = frozenset({"SEG", "SR"})
IMAGES = frozenset({"SEG", "SC", "PMAP", "LABELMAP"})  # to an SR: images; the rest are composites
DRAWN = frozenset({"SC", "PDF"})
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
    content: origin.Encoded
    holds: Held | None = None  # of a segmentation
    variant: str = ""  # "binary" or "labelmap": a destination gets those of one of the two


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
    declared: Declaration,
    context: ResultContext,
    wanted: frozenset[str] = ALWAYS,
) -> tuple[MadeObject, ...]:
    """Write the result set, the SR first; without a single finding, only the SR that says so.

    `wanted`: the roles that a destination of the job takes.
    """
    outputs = declared.outputs
    if isinstance(outputs, CineSegmentation):
        shown, parts, held = of_a_beat(reading, moments, findings, outputs, context)
    else:
        volume, source = moments[0].volumes[0], moments[0].sources[0]
        label_map = reading.label_maps[0] if reading.label_maps else np.zeros(volume.shape, np.uint8)
        shown = Shown(tuple(findings), label_map, volume, source)
        parts, held = segmentations(shown, context)
    others = [*beside(shown, wanted, context), *retractions(shown, wanted, context)]
    if "PMAP" in wanted and reading.probability is not None and reading.probability.any():
        others.append(probability_map(reading.probability, shown, mapped_name(declared), context))
    reported = report(shown, moments, [*parts, *others], held, context)
    if not (held and "LABELMAP" in wanted and not isinstance(outputs, CineSegmentation)):
        return (reported, *parts, *others)
    instead = label_map_variant(shown, moments, others, context)
    binary = [replace(one, variant="binary") for one in (reported, *parts)]
    return (*binary, *instead, *others)


def label_map_variant(
    shown: Shown, moments: Sequence[Moment], others: Sequence[MadeObject], context: ResultContext
) -> tuple[MadeObject, ...]:
    """Write SR and Segmentation once more, the latter as a label map: for a destination that takes that class."""
    there = shown.there()
    content = write_label_map(shown.label_map, shown.volume, there, shown.source, context)
    one = named("LABELMAP", origin.LABEL_MAP_SERIES, content, context)
    held = segment_references(there, context, origin.LABEL_MAP_SERIES, LABEL_MAP)
    told = report(shown, moments, [one, *others], held, context, origin.LABEL_MAP_REPORT_SERIES)
    one = replace(one, holds=holding(there, shown.label_map, shown))
    return replace(told, variant="labelmap"), replace(one, variant="labelmap")


def beside(shown: Shown, wanted: frozenset[str], context: ResultContext) -> list[MadeObject]:
    """Write what shows the findings to those who open neither SR nor SEG, where a destination takes it."""
    segments = find_segments(shown.label_map, shown.volume, shown.findings)
    made, keys = [], key_slices(segments)
    pictures = [drawn(k, shown.label_map, shown.volume, segments, context) for k in keys] if wanted & DRAWN else []
    if "SC" in wanted:
        for n, picture in enumerate(pictures):
            content = write_picture(picture, shown.source, context, origin.OVERLAY_SERIES, n)
            made.append(named("SC", origin.OVERLAY_SERIES, content, context, n))
    if "PDF" in wanted:
        first = pictures[0] if pictures else None
        content = write_page(shown.findings, first, shown.source, context)
        made.append(named("PDF", origin.PAGE_SERIES, content, context))
    if keys and "GSPS" in wanted:
        content = write_presentation(shown.label_map, shown.volume, shown.findings, shown.source, context)
        made.append(named("GSPS", origin.PRESENTATION_SERIES, content, context))
    if keys and "RTSTRUCT" in wanted:
        content = write_contours(shown.label_map, shown.volume, shown.findings, shown.source, context)
        made.append(named("RTSTRUCT", origin.CONTOURS_SERIES, content, context))
    if keys and "KOS" in wanted:
        frames = dict.fromkeys(shown.source.frames[k] for k in keys)
        chosen = [
            ObjectReference(one.sop_class_uid, one.sop_instance_uid, shown.volume.series_instance_uid) for one in frames
        ]
        said = f"Slices in which {context.title} measured most of a finding."
        content = write_key_images(list(dict.fromkeys(chosen)), shown.source, context, said)
        made.append(named("KOS", origin.KEY_OBJECTS_SERIES, content, context))
    return made


def probability_map(probability: Labels, shown: Shown, what: str, context: ResultContext) -> MadeObject:
    """Write how probable `what` is at each voxel."""
    content = write_probability_map(probability, what, shown.volume, shown.source, context)
    holds = Held(probability, shown.volume, {value: value for value in range(256)}, shown.source)
    return replace(named("PMAP", origin.PROBABILITY_SERIES, content, context), holds=holds)


def mapped_name(declared: Declaration) -> str:
    """Return the name of the segment whose probability the package maps."""
    numbered = {one.number: one.name for one in declared.outputs.segments}  # type: ignore[union-attr]
    return str(numbered[declared.mapped_segment])


def retractions(shown: Shown, wanted: frozenset[str], context: ResultContext) -> list[MadeObject]:
    """Write the note that takes back what these results replace, for destinations that act on such notes."""
    if "KOS" not in wanted or not context.supersedes:
        return []
    content = write_retraction(context.supersedes, shown.source, context)
    return [named("KOS", origin.RETRACTION_SERIES, content, context)]


def validate(
    objects: Sequence[MadeObject], moments: Sequence[Moment], findings: Sequence[Finding], context: ResultContext
) -> None:
    """Raise ResultRejected unless the whole set reads back as what was found."""
    images = {uid for _, instances in inputs_of(moments) for _, uid in instances}
    held = {one.at.sop_instance_uid: one.holds for one in objects if one.holds}
    check(
        [(one.at, one.content) for one in objects],
        Expected(findings, moments[0].sources[0], context, frozenset(images), held),
    )


def report_of_failure(
    reason: str, image: Path, instances: Mapping[str, Sequence[tuple[str, str]]], context: ResultContext
) -> MadeObject:
    """Write and check the SR that says why there is no result; `image` names the patient and the study.

    `instances`: Series Instance UID → (SOP Class UID, SOP Instance UID) of what could not be read.
    """
    source = SourceHeaders(cleaned(read_header(image)), (), ())
    content = write_failure(reason, source, list(instances.items()), context)
    made = named("SR", origin.REPORT_SERIES, content, context)
    images = frozenset(uid for several in instances.values() for _, uid in several)
    check([(made.at, made.content)], Expected((), source, context, images, {}))
    return made


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
    return replace(named("SEG", series, content, context), holds=holding(part, label_map, shown))


def holding(part: Sequence[Finding], label_map: Labels, shown: Shown) -> Held:
    """Return what a segmentation of these findings is to hold."""
    labels = sorted(one.segment_number for one in part)
    return Held(label_map, shown.volume, {label: n for n, label in enumerate(labels, 1)}, shown.source)


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
) -> tuple[Shown, list[MadeObject], dict[int, SegmentReference]]:
    """Write SEG at end-diastole and end-systole, a series each, and the volume curve; shown is end-diastole."""
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
    made.append(named("SC", origin.CURVE_SERIES, picture, context))
    return diastole, made, held


def report(
    shown: Shown,
    moments: Sequence[Moment],
    made: Sequence[MadeObject],
    held: Mapping[int, SegmentReference],
    context: ResultContext,
    series: origin.Series = origin.REPORT_SERIES,
) -> MadeObject:
    """Return the SR, the root of the set: it refers to all that was made."""
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
        series,
    )
    return named("SR", series, content, context)


def inputs_of(moments: Sequence[Moment]) -> list[Input]:
    """Return every image that was read, by series, in the order of inputs, moments and slices."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    for n in range(len(moments[0].volumes)):
        for moment in moments:
            of_series = found.setdefault(moment.volumes[n].series_instance_uid, {})
            of_series.update(dict.fromkeys(moment.sources[n].instances))
    return [(series, list(instances)) for series, instances in found.items()]


def named(
    role: str, series: origin.Series, content: origin.Encoded, context: ResultContext, ordinal: int = 0
) -> MadeObject:
    """Return a result object under the UIDs that `origin.stamp` gave it."""
    name = f"{series.role}-{ordinal}" if ordinal else series.role
    return MadeObject(role, name, origin.reference(context, series, BY_ROLE[role], ordinal), content)

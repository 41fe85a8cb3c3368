"""Reading → findings with their measurements. It must never drop a segment without its package saying so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from appliance.errors import ResultRejected
from appliance.finding import (
    DIAMETER,
    EJECTION_FRACTION,
    END_DIASTOLIC_VOLUME,
    END_SYSTOLIC_VOLUME,
    HOUNSFIELD,
    LATERALITY,
    MAXIMUM,
    MEAN,
    MINIMUM,
    ML,
    MM,
    NO_UNITS,
    PERCENT,
    STANDARD_DEVIATION,
    STROKE_VOLUME,
    VOLUME,
    Code,
    Finding,
    Measurement,
    name_in,
)
from appliance.volume import Volume
from models.outputs import CineSegmentation, Classification, Detection, Regression, Segment
from models.package import Package
from models.reading import Labels, Reading

Statistic = Callable[[npt.NDArray[np.float64]], np.float64]
STATISTICS: dict[str, tuple[Code, Statistic]] = {
    "mean": (MEAN, np.mean),
    "standard_deviation": (STANDARD_DEVIATION, np.std),
    "minimum": (MINIMUM, np.min),
    "maximum": (MAXIMUM, np.max),
}
CLINICAL_FINDING = Code("404684003", "SCT", "Clinical finding")
HARDLY_ANY_ML = 1e-6


@dataclass(frozen=True)
class Beat:
    """Which moments of a cine series are end-diastole and end-systole, and the volume of the cavity over time."""

    diastole: int
    systole: int
    ml: tuple[float, ...]


def measure(reading: Reading, volumes: Sequence[Volume], package: Package) -> tuple[Finding, ...]:
    """Return the findings of a reading of `volumes`: one of the first input for each moment.

    Raises ResultRejected for another grid, or a number that the package does not have.
    """
    outputs = package.manifest.outputs
    if isinstance(outputs, Classification):
        return classified(reading.probabilities, outputs)
    if isinstance(outputs, Regression):
        return regressed(reading.numbers, outputs)
    for label_map, volume in zip(reading.label_maps, volumes, strict=True):
        check(label_map, volume, len(outputs.segments) * max(1, len(reading.regions)) + len(reading.scores))
    if isinstance(outputs, CineSegmentation):
        return beating(reading.label_maps, volumes, outputs)
    organs = segments_of(reading, volumes[0], package)
    if isinstance(outputs, Detection):
        return organs + candidates_of(reading, volumes[0], outputs)
    return organs


def check(label_map: Labels, volume: Volume, highest: int) -> None:
    """Raise ResultRejected unless the label map is on the grid of `volume` and holds known numbers."""
    if label_map.shape != volume.shape:
        raise ResultRejected(f"the label map has shape {label_map.shape}, its volume {volume.shape}")
    present = np.flatnonzero(np.bincount(label_map.ravel(order="K"), minlength=256))
    unknown = [int(number) for number in present if number > highest]
    if unknown:
        raise ResultRejected(f"the label map holds {unknown}, no segments of the package")


def segments_of(reading: Reading, volume: Volume, package: Package) -> tuple[Finding, ...]:
    """Return one finding for each segment that is there, in order; in several regions, each region's by itself."""
    outputs = package.manifest.outputs
    segments = {one.number: one for one in outputs.segments}  # type: ignore[union-attr]
    if isinstance(outputs, Detection):
        del segments[outputs.candidates.segment]  # its parts are findings by themselves
    label_map = reading.label_maps[0]
    counts = np.bincount(label_map.ravel(order="K"), minlength=256)
    found = []
    for n, region in enumerate(reading.regions or ("",)):
        for number, segment in segments.items():
            label = n * len(outputs.segments) + number  # type: ignore[union-attr]
            if counts[label]:
                one = finding(segment, label, segment.name, label_map, volume)
                found.append(of_region(one, region))
    return tuple(found)


def of_region(one: Finding, region: str) -> Finding:
    """Return a finding with the name of its region, which is its side where it is left or right."""
    return replace(one, name=name_in(region, one.name), laterality=LATERALITY.get(region, one.laterality))


def finding(segment: Segment, label: int, name: str, label_map: Labels, volume: Volume) -> Finding:
    """Return the finding of the voxels `label` as a `segment`, measured as it asks."""
    mask = label_map == label
    return Finding(
        segment_number=label,
        name=name,
        category=segment.category.as_code(),
        code=segment.type.as_code(),
        site=segment.site.as_code() if segment.site else None,
        rgb=segment.rgb,
        measurements=tuple(measured(what, mask, volume) for what in segment.measure),
        voxels=int(mask.sum()),
        laterality=LATERALITY[segment.laterality] if segment.laterality else None,
    )


def measured(what: str, mask: npt.NDArray[np.bool_], volume: Volume) -> Measurement:
    """Return one measurement of the voxels of a mask."""
    if what == "volume":
        return Measurement(VOLUME, int(mask.sum()) * volume.voxel_ml, ML)
    if what == "diameter":
        return Measurement(DIAMETER, longest_diameter(mask, volume), MM)
    name, statistic = STATISTICS[what]
    unit = HOUNSFIELD if volume.modality == "CT" else NO_UNITS
    return Measurement(name, float(statistic(volume.voxels[mask].astype(np.float64))), unit)


def longest_diameter(mask: npt.NDArray[np.bool_], volume: Volume) -> float:
    """Return the longest distance in mm within one slice, from outer face to outer face (as RECIST measures)."""
    _, row_mm, column_mm = volume.spacing_mm
    longest = 0.0
    for plane in mask[mask.any(axis=(1, 2))]:
        centres = np.argwhere(plane).astype(np.float64)
        corners = np.concatenate([centres + shift for shift in ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5))])
        points = np.unique(corners, axis=0) * (row_mm, column_mm)
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # all in one line cannot be: corners of a voxel have an area
            pass
        longest = max(longest, float(pdist(points).max()))
    return longest


def candidates_of(reading: Reading, volume: Volume, outputs: Detection) -> tuple[Finding, ...]:
    """Return one finding for each candidate, the most probable first."""
    segment = outputs.segments[outputs.candidates.segment - 1]
    first = len(outputs.segments) + 1
    found = []
    for n, score in enumerate(reading.scores):
        one = finding(segment, first + n, f"{segment.name} {n + 1}", reading.label_maps[0], volume)
        found.append(replace(with_probability(one, score, outputs.candidates.min_score), candidate=True))
    return tuple(found)


def with_probability(one: Finding, probability: float, operating_point: float, *, present: bool = True) -> Finding:
    """Return a finding with its probability and the point from which on it is reported."""
    return replace(one, probability=probability, operating_point=operating_point, present=present)


def classified(probabilities: Sequence[float], outputs: Classification) -> tuple[Finding, ...]:
    """Return one finding: the positive class, present or absent, with its probability."""
    positive = outputs.classes[outputs.positive]
    one = of_the_whole(positive.name, positive.code.as_code(), outputs.site.as_code() if outputs.site else None)
    probability = probabilities[outputs.positive]
    return (with_probability(one, probability, outputs.threshold, present=probability >= outputs.threshold),)


def regressed(numbers: Sequence[float], outputs: Regression) -> tuple[Finding, ...]:
    """Return one finding for each number."""
    found = []
    for number, value in zip(numbers, outputs.values, strict=True):
        code = value.name.as_code()
        one = of_the_whole(value.name.meaning, code, outputs.site.as_code() if outputs.site else None)
        found.append(replace(one, measurements=(Measurement(code, number, value.unit.as_code()),)))
    return tuple(found)


def of_the_whole(name: str, code: Code, site: Code | None) -> Finding:
    """Return a finding that is no part of the image."""
    return Finding(0, name, CLINICAL_FINDING, code, site, (255, 255, 255))


def beat_of(label_maps: Sequence[Labels], volumes: Sequence[Volume], outputs: CineSegmentation) -> Beat:
    """Return where the cavity is largest and smallest; ResultRejected where a phase shows none, which no heart does."""
    ml = tuple(
        int((label_map == outputs.cavity).sum()) * volume.voxel_ml
        for label_map, volume in zip(label_maps, volumes, strict=True)
    )
    if max(ml) <= HARDLY_ANY_ML:
        raise ResultRejected("no cavity was found in any phase")
    if min(ml) <= HARDLY_ANY_ML:
        raise ResultRejected(f"no cavity was found in phase {int(np.argmin(ml)) + 1} of {len(ml)}")
    return Beat(int(np.argmax(ml)), int(np.argmin(ml)), ml)


def beating(label_maps: Sequence[Labels], volumes: Sequence[Volume], outputs: CineSegmentation) -> tuple[Finding, ...]:
    """Return the segments at end-diastole; the cavity's with volumes of the beat, ejection fraction and curve."""
    beat = beat_of(label_maps, volumes, outputs)
    largest, smallest = beat.ml[beat.diastole], beat.ml[beat.systole]
    of_the_beat = (
        Measurement(END_DIASTOLIC_VOLUME, largest, ML),
        Measurement(END_SYSTOLIC_VOLUME, smallest, ML),
        Measurement(STROKE_VOLUME, largest - smallest, ML),
        Measurement(EJECTION_FRACTION, 100 * (largest - smallest) / largest, PERCENT),
    )
    curve = tuple((volume.time_ms, ml) for volume, ml in zip(volumes, beat.ml, strict=True))
    found = []
    for segment in outputs.segments:
        one = finding(segment, segment.number, segment.name, label_maps[beat.diastole], volumes[beat.diastole])
        if segment.number == outputs.cavity:
            one = replace(one, measurements=of_the_beat, curve=curve)
        if one.voxels:
            found.append(one)
    return tuple(found)

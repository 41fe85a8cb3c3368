"""THE straight line: the images of one series in, result objects out. Start reading here.

It must never touch the catalogue, the network or a clock: what it needs comes in, what it makes goes out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from appliance.finding import Finding
from appliance.job import ResultContext
from appliance.volume import Array, Volume
from dicom_nodes.report import write_report
from dicom_nodes.segmentation import write_segmentation
from dicom_nodes.volume_reader import read_series
from models.measure import measure
from models.package import Package

SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


@dataclass(frozen=True)
class Inferred:
    """What the engine process answered."""

    label_map: Array  # uint8 (k, j, i) on the source grid
    engine: str
    precision: str
    cpu_s: float  # of the engine process, for this run
    skipped: tuple[tuple[str, str], ...] = ()  # rungs not taken, and why


@dataclass(frozen=True)
class MadeObject:
    """One result object as bytes of a DICOM file."""

    role: str  # SEG or SR
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    content: bytes


@dataclass(frozen=True)
class Made:
    """All that one job makes."""

    objects: tuple[MadeObject, ...]
    findings: tuple[Finding, ...]
    inferred: Inferred
    timings: dict[str, float]  # seconds of each step


def read_study(
    paths: Sequence[Path],
    package: Package,
    segment: Callable[[Volume], Inferred],
    context_of: Callable[[Inferred], ResultContext],
) -> Made:
    """Volume → label map → findings → SEG and SR. Raises StudyUnsuitable, StudyBlocked or ResultRejected."""
    clock = Stopwatch()
    volume, source = read_series(paths)
    clock.lap("volume_s")
    inferred = segment(volume)
    clock.lap("inference_s")
    context = context_of(inferred)
    findings = tracked(measure(inferred.label_map, volume, package), context)
    clock.lap("findings_s")
    objects = written(inferred.label_map, volume, findings, source, context)
    clock.lap("results_s")
    return Made(objects, findings, inferred, clock.laps)


def tracked(findings: Sequence[Finding], context: ResultContext) -> tuple[Finding, ...]:
    """Give each finding the tracking UID by which SEG and SR both know it."""
    return tuple(replace(one, tracking_uid=context.uid("tracking", one.segment_number)) for one in findings)


def written(
    label_map: Array, volume: Volume, findings: Sequence[Finding], source: Any, context: ResultContext
) -> tuple[MadeObject, ...]:
    """Write SEG and SR; without a single finding, only the SR that says so."""
    segmentation = write_segmentation(label_map, volume, findings, source, context) if findings else None
    report = write_report(findings, label_map, volume, source, context, segmentation)
    made = [MadeObject("SR", COMPREHENSIVE_3D_SR, context.uid("sr"), context.uid("sr-series"), report)]
    if segmentation is not None:
        made.append(MadeObject("SEG", SEG_STORAGE, context.uid("seg"), context.uid("seg-series"), segmentation))
    return tuple(made)


class Stopwatch:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Record the time since the last lap under a name."""
        at = time.monotonic()
        self.laps[name] = round(at - self._last, 3)
        self._last = at

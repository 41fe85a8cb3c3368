"""THE straight line: the images of a package's inputs in, result objects out. Start reading here.

It must never touch the catalogue, the network or a clock: what it needs comes in, what it makes goes out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from appliance.finding import Finding
from appliance.job import Prior, ResultContext
from appliance.volume import Volume
from dicom_nodes import origin
from dicom_nodes.volume_reader import read_sequence, read_series
from models.measure import measure
from models.package import Package
from models.reading import Reading
from workers.result_set import ALWAYS, MadeObject, Moment, validate, written

FIRST_OF_THE_WHOLE = 1000  # ordinal of the first finding that is no segment


@dataclass(frozen=True)
class Inferred:
    """What the engine process answered."""

    reading: Reading
    engine: str
    precision: str
    cpu_s: float  # of the engine process, for this run
    skipped: tuple[tuple[str, str], ...] = ()  # rungs not taken, and why
    memory_mb: float | None = None  # peak, measured
    parity: list[dict[str, Any]] = field(default_factory=list)  # how the engine agreed with the golden cases


@dataclass(frozen=True)
class Made:
    """All that one job makes."""

    objects: tuple[MadeObject, ...]
    findings: tuple[Finding, ...]
    inferred: Inferred
    timings: dict[str, float]  # seconds of each step
    context: ResultContext
    study_date: str  # YYYYMMDD, or nothing


def read_study(
    inputs: Sequence[Sequence[Path]],
    package: Package,
    infer: Callable[[Sequence[Sequence[Volume]]], Inferred],
    context_of: Callable[[Inferred], ResultContext],
    wanted: frozenset[str] = ALWAYS,
) -> Made:
    """Volumes → reading → findings → SEG and SR. Raises StudyUnsuitable, StudyBlocked or ResultRejected.

    `inputs`: the files of each input's series, in the order of the package's inputs; the first gives the grid.
    """
    clock = Stopwatch()
    moments = read_moments(inputs, package)
    clock.lap("volume_s")
    inferred = infer([moment.volumes for moment in moments])
    clock.lap("inference_s")
    study_date = origin.study_date(moments[0].sources[0])
    context = with_priors(context_of(inferred), study_date)
    findings = tracked(measure(inferred.reading, [one.volumes[0] for one in moments], package), context)
    clock.lap("findings_s")
    objects = written(inferred.reading, moments, findings, package.manifest, context, wanted)
    clock.lap("results_s")
    validate(objects, moments, findings, context)
    clock.lap("validated_s")
    return Made(objects, findings, inferred, clock.laps, context, study_date)


def read_moments(inputs: Sequence[Sequence[Path]], package: Package) -> list[Moment]:
    """Return the volumes of all inputs; several moments where the package reads a series over time."""
    first, *others = inputs
    if next(iter(package.requirements.values())).volumes == "all":
        return [Moment((volume,), (source,)) for volume, source in read_sequence(first)]
    volumes, sources = zip(*(read_series(paths) for paths in (first, *others)), strict=True)
    return [Moment(volumes, sources)]


def computed_by(context: ResultContext, ran: Inferred) -> ResultContext:
    """Return the context with the engine that ran."""
    located_by = ", ".join(ran.reading.located)
    return replace(context, engine=ran.engine, precision=ran.precision, skipped=ran.skipped, located_by=located_by)


def with_priors(context: ResultContext, study_date: str) -> ResultContext:
    """Return the context with, of each tracked finding, only the latest prior from before this study."""
    latest: dict[str, Prior] = {}
    for one in sorted(context.priors, key=lambda prior: prior.study_date, reverse=True):
        if study_date and one.study_date < study_date:
            latest.setdefault(one.tracking_uid, one)
    return replace(context, priors=tuple(latest.values()))


def tracked(findings: Sequence[Finding], context: ResultContext) -> tuple[Finding, ...]:
    """Give each finding the tracking UID by which all objects know it: a structure's holds over time, a candidate's
    belongs to this job alone."""
    found, used = [], set()
    for n, one in enumerate(findings):
        side = one.laterality.value if one.laterality else ""
        uid = context.tracking_uid(f"{one.code.scheme} {one.code.value} {side} {one.name}")
        if one.candidate or uid in used:
            uid = context.tracking_uid("candidate", one.segment_number or FIRST_OF_THE_WHOLE + n)
        used.add(uid)
        found.append(replace(one, tracking_uid=uid))
    return tuple(found)


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

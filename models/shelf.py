"""The packages one process holds ready, within a budget of memory: the one used longest ago gives way.

What runs out of memory goes on in smaller batches (inference.py), then on the next rung, as does what breaks; it is
never given up while a rung is left. A rung that was left stands in `skipped` with the reason.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from appliance.errors import EngineUnavailable, Missing
from appliance.volume import Volume
from models.deciding import read, read_regions
from models.engines import NEEDS_GPU, EngineChoice, Place, choose_engine, first_line, ran_out_of_memory
from models.footprint import Footprint, budget_mb, device_of
from models.inference import Progress
from models.locating import located_boxes
from models.package import Package
from models.parity import as_record
from models.reading import Reading


@dataclass
class Loaded:
    """A package with its engine."""

    package: Package
    choice: EngineChoice
    memory_mb: float  # measured; declared until it ran once
    measured: bool = False
    engine_mb: float = 0.0  # what the engine holds while it waits

    @property
    def in_words(self) -> str:
        """What it runs on, and why on nothing better, e.g. "on openvino f32, not on tensorrt: needs a GPU"."""
        above = "".join(f", not on {rung}: {reason}" for rung, reason in self.choice.skipped)
        return f"on {self.choice.engine.name} {self.choice.engine.precision}{above}"

    def record(self) -> dict[str, Any]:
        """Return what the catalogue and people are told of it."""
        engine = self.choice.engine
        return {
            "engine": engine.name,
            "precision": engine.precision,
            "skipped": [list(one) for one in self.choice.skipped],
            "parity": as_record(list(self.choice.parity)),
            "memory_mb": round(self.memory_mb, 1) if self.measured else None,
        }


def least_mb(package: Package) -> float:
    """Return what any run needs, twice the graph: a run in memory that was freed before would not show."""
    return 2 * package.path("model.onnx").stat().st_size / 2**20


class Shelf:
    """Loaded packages, the one used last at the end."""

    def __init__(self, backends: Sequence[str], place: Place, memory_gb: float = 0.0) -> None:
        self.backends = tuple(backends)
        self.place = place
        self.budget_mb = memory_gb * 1024 if memory_gb else budget_mb(place)
        self._held: OrderedDict[str, Loaded] = OrderedDict()
        self._footprints: dict[str, float] = {}  # by digest: outlive eviction
        self.broken = False  # a GPU's engine broke: whatever runs there next may fail with it, until the process ends

    def take(self, package: Package, need_mb: float | None = None) -> Loaded:
        """Return the package loaded, others evicted where the budget asks for it.

        `need_mb`: what it was measured to need on this host before. Raises EngineUnavailable.
        """
        if package.digest in self._held:
            self._held.move_to_end(package.digest)
            return self._held[package.digest]
        known = self._footprints.get(package.digest, need_mb)
        need = known or float(package.manifest.resources.memory_mb)
        self._make_room(need)
        with Footprint(device_of(self.place)) as footprint:
            choice = choose_engine(package, self.backends, self.place)
        loaded = self._held[package.digest] = Loaded(package, choice, need, known is not None, footprint.kept_mb)
        return loaded

    def prepare(
        self, sequence: Sequence[Sequence[Volume]], package: Package, locator: Package | None, need_mb: float | None
    ) -> None:
        """Load what `read` will run, so that it does not count as the run's time. Raises EngineUnavailable."""
        plan = package.manifest.locator
        if locator is not None and plan is not None and plan.is_needed(sequence[0][0]):
            self.take(locator)
        self.take(package, need_mb)

    def read(
        self,
        sequence: Sequence[Sequence[Volume]],
        package: Package,
        locator: Package | None = None,
        progress: Progress | None = None,
        *,
        mapped: bool = False,
    ) -> tuple[Reading, Loaded]:
        """Return what a package says of a sequence of volumes, and what it ran on; `mapped` as of `deciding.read`.

        Raises EngineUnavailable where no rung is left, Missing where a locator is needed and not given.
        """
        plan = package.manifest.locator
        if plan is None or not plan.is_needed(sequence[0][0]):
            return self._run(package, lambda held: read(sequence, package, held.choice.engine, progress, mapped=mapped))
        if locator is None or locator.name != plan.package:
            raise Missing(f"{package.name} looks where {plan.package} found something; install that package")
        found, where = self._run(locator, lambda held: read(sequence, locator, held.choice.engine))
        volumes = sequence[0]
        boxes = located_boxes(found.label_maps[0], volumes[0], plan)
        reading, loaded = self._run(
            package, lambda held: read_regions(volumes, boxes, package, held.choice.engine, progress)
        )
        return replace(reading, located=(f"{locator.name} ({where.in_words})",)), loaded

    def _run(self, package: Package, work: Any) -> tuple[Reading, Loaded]:
        while True:
            loaded = self.take(package)
            try:
                with Footprint(loaded.choice.engine.device) as footprint:
                    reading: Reading = work(loaded)
            except (EngineUnavailable, MemoryError, RuntimeError) as error:
                if not isinstance(error, EngineUnavailable) and not ran_out_of_memory(error):
                    raise
                reason = first_line(error)
                self.broken |= loaded.choice.engine.name in NEEDS_GPU and not ran_out_of_memory(error)
            else:
                break
            self._next_rung(loaded, reason)  # outside of `except`, whose error holds what was being computed
        self._measured(loaded, footprint.grown_mb)
        return reading, loaded

    def _measured(self, loaded: Loaded, grown_mb: float) -> None:
        """Keep what a run needed."""
        found = max(loaded.engine_mb + grown_mb, least_mb(loaded.package))
        before = self._footprints.get(loaded.package.digest, 0.0)
        loaded.memory_mb, loaded.measured = max(found, before), True
        self._footprints[loaded.package.digest] = loaded.memory_mb

    def _next_rung(self, loaded: Loaded, reason: str) -> None:
        """Replace an engine that ran out of memory or broke by one further down; EngineUnavailable if there is none."""
        engine = loaded.choice.engine
        name, skipped = engine.name, loaded.choice.skipped
        del self._held[loaded.package.digest]
        with suppress(RuntimeError):  # what broke may break again while it is put away
            engine.close()
        left = self.backends[self.backends.index(name) + 1 :]
        try:
            choice = choose_engine(loaded.package, left, self.place)
        except EngineUnavailable as error:
            raise EngineUnavailable(f"{name}: {reason}; {error}") from error
        choice = replace(choice, skipped=(*skipped, (name, reason), *choice.skipped))
        self._held[loaded.package.digest] = Loaded(loaded.package, choice, loaded.memory_mb)

    def _make_room(self, need_mb: float) -> None:
        while self._held and sum(one.memory_mb for one in self._held.values()) + need_mb > self.budget_mb:
            _, evicted = self._held.popitem(last=False)
            evicted.choice.engine.close()

    @property
    def held(self) -> tuple[str, ...]:
        """Digests of the packages that are loaded, the one used longest ago first."""
        return tuple(self._held)

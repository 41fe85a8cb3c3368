"""TensorRT and TensorRT-RTX: plans built on this box from the signed graph, kept, refitted, run on torch's memory.

It must never run a plan that was not built here, nor call an engine good: the ladder compares each with the golden
cases. f16 first where the package allows it, then f32 without TF32. A plan whose graph differs from a kept one in
trained numbers alone is refitted into a second copy, so that the one in use goes on until the ladder has judged it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from appliance.errors import EngineUnavailable
from appliance.log import logger
from models.engines import Engine, OutOfMemory, Place, first_line, judged
from models.engines.graph import checked_graph
from models.engines.half_graph import in_halves, recipe
from models.engines.not_built import NotBuilt
from models.engines.plan_cache import Gpu, Marker, PlanCache, PlanKey, kernels_name
from models.engines.plan_run import PlanEngine
from models.engines.provider import Provider, build_plan, flags, profile_of, provider
from models.engines.structure import structure_hash
from models.package import Package
from models.parity import as_record


class PlanSource:
    """Where the plan of one package in one precision comes from: the cache, a refit of an older one, or a build."""

    def __init__(self, package: Package, supplier: Provider, precision: str, place: Place) -> None:
        self.package = package
        self.supplier = supplier
        self.precision = precision
        self.device = torch.device(place.cuda)
        self.cache = PlanCache(place.cache)
        self.profile = profile_of(package.manifest.inference.batch)
        self.flags = flags(supplier, refit=place.cache is not None)
        self._original = checked_graph(package.path("model.onnx"))
        self.weights = hashlib.sha256(self._original).hexdigest()
        self.key = self._key(gpu_at(self.device)).digest

    def _key(self, gpu: Gpu) -> PlanKey:
        made = recipe(self.package.manifest.precision.keep_f32) if self.precision == "f16" else self.precision
        structure = structure_hash(self._original)
        return PlanKey(structure, made, self.supplier.rung, self.supplier.version, gpu, self.profile, self.flags)

    def graph(self) -> bytes:
        """Return the graph in this precision."""
        if self.precision == "f32":
            return self._original
        return in_halves(self._original, self.package.manifest.precision.keep_f32)

    def kept(self) -> Engine | None:
        """Return the engine of a kept plan, None if there is none that can be used."""
        with self.cache.locked(self.key):
            plan = self.cache.ready(self.key, self.weights)
            if plan is not None:
                try:
                    return self._engine(plan)
                except OutOfMemory:
                    raise
                except EngineUnavailable:  # it is built anew
                    self.cache.drop(self.key, self.weights)
        return None

    def refitted(self) -> Engine | None:
        """Return a second copy of an older plan with this package's weights; None if there is none, or it disagrees."""
        if "REFIT" not in self.flags:
            return None
        with self.cache.locked(self.key):
            older = self.cache.to_refit(self.key)
            engine = self._older(older) if older is not None else None
            if engine is None:
                return None
            try:
                engine.refit(self.graph())
                reason = self._disagreement(engine)
            except EngineUnavailable as error:
                reason = str(error)
            if not reason:
                return engine
            engine.close()
            logger().warning("refit_refused", package=self.package.name, engine=self._name, reason=reason)
            return None  # a build can do what a refit cannot

    def _older(self, plan: bytes) -> PlanEngine | None:
        """Return the engine of a plan to refit; one that cannot be loaded is dropped, and a build takes its place."""
        try:
            return self._engine(plan)
        except OutOfMemory:
            raise
        except EngineUnavailable as error:
            logger().warning("refit_refused", package=self.package.name, engine=self._name, reason=str(error))
            self.cache.drop_plan(self.key, plan)
            return None

    def built(self) -> Engine:
        """Return the engine of a plan that is built now; raises EngineUnavailable."""
        with self.cache.locked(self.key):
            plan = self.cache.ready(self.key, self.weights)  # another process may have built it meanwhile
            if plan is not None:
                return self._engine(plan)
            timings = self.cache.read(self._timings_name)
            plan, timings = build_plan(self.supplier, self.graph(), self.profile, self.flags, timings)
            if timings:
                self.cache.write(self._timings_name, timings)
            engine = self._engine(plan)
            self._disagreement(engine, plan)
            return engine

    def forget(self) -> None:
        """Remove the kept plan: it did not agree."""
        with self.cache.locked(self.key):
            self.cache.drop(self.key, self.weights)

    def _engine(self, plan: bytes) -> PlanEngine:
        kernels = self.cache.read(kernels_name(self.key))
        return PlanEngine(self.supplier, plan, self.precision, self.device, kernels)

    def _disagreement(self, engine: PlanEngine, plan: bytes | None = None) -> str:
        """Return why an engine may not be used; its plan is kept if there is no reason."""
        found, reason = judged(engine, self.package)
        if reason or self.cache.folder is None:
            return reason
        plan = plan or engine.serialized()
        marker = Marker(
            plan_key=self.key,
            weights_sha256=self.weights,
            plan_sha256=hashlib.sha256(plan).hexdigest(),
            package=f"{self.package.id} {self._name}",
            refittable=engine.refittable,
            parity=as_record(found),
        )
        self.cache.keep(plan, marker)
        if kernels := engine.kernels():
            self.cache.write(kernels_name(self.key), kernels)
        return ""

    @property
    def _name(self) -> str:
        return f"{self.supplier.rung} {self.precision}"

    @property
    def _timings_name(self) -> str:
        on = f"{self.supplier.rung} {self.supplier.version} {gpu_at(self.device)}"
        return f"{hashlib.sha256(on.encode()).hexdigest()[:32]}.timings"


def engines(package: Package, rung: str, place: Place) -> Iterator[Engine]:
    """Yield the package on TensorRT or TensorRT-RTX: f16 where it is allowed, then f32, both from graph to plan.

    Raises EngineUnavailable where there is no GPU or no library.
    """
    if not torch.cuda.is_available():
        raise EngineUnavailable("needs a GPU, and PyTorch finds no CUDA device")
    supplier = provider(rung)
    for precision in ("f16", "f32"):
        if precision in package.manifest.precision.allowed:
            yield from in_precision(package, supplier, precision, place)


def in_precision(package: Package, supplier: Provider, precision: str, place: Place) -> Iterator[Engine]:
    """Yield engines of one precision; whoever asks for another one did not find the last in agreement."""
    try:
        source = PlanSource(package, supplier, precision, place)
        for offered in (source.kept, source.refitted, source.built):
            engine = offered()
            if engine is not None:
                yield engine
                source.forget()
    except EngineUnavailable as reason:
        yield NotBuilt(supplier.rung, precision, reason)


def gpu_at(device: torch.device) -> Gpu:
    """Return what a plan is tied to on this device."""
    found = torch.cuda.get_device_properties(device)
    driver = ""
    with suppress(OSError):
        driver = first_line(ValueError(Path("/proc/driver/nvidia/version").read_text()))
    capability = f"{found.major}.{found.minor}"
    return Gpu(found.name, capability, found.multi_processor_count, driver, torch.version.cuda or "")

"""TensorRT and TensorRT-RTX, which offer the same calls under two names: which is here, and building a plan with it.

It must never use what TensorRT 11 has removed: precision stands in the graph (half_graph.py), networks are strongly
typed. Written to the API of 10.x and 11.x; TensorRT-RTX also builds on a machine without a GPU, for tests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from appliance.errors import EngineUnavailable
from models.engines import OutOfMemory, first_line

# rung → modules that offer it, the first that imports is taken
MODULES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
# rung → first version whose refittable plans may be used: TensorRT 11.3 drops a bias in them
REFITS_FROM = {"tensorrt": (11, 4), "tensorrt-rtx": (1, 7)}
Profile = tuple[int, int, int]  # smallest, usual and largest batch
NO_MEMORY = re.compile(r"out ?of ?memory|memoryallocation|insufficient memory", re.IGNORECASE)


@dataclass(frozen=True)
class Provider:
    """One of the two libraries, and what its logger heard."""

    rung: str
    api: Any  # the module
    logger: Any

    @property
    def version(self) -> str:
        """Version of the library, all four numbers."""
        return str(self.api.__version__)

    @property
    def is_rtx(self) -> bool:
        """Whether kernels are compiled when they first run, not when the plan is built."""
        return self.rung == "tensorrt-rtx"

    @property
    def refits(self) -> bool:
        """Whether plans of this version may be given other weights."""
        first, second = (int(one) for one in re.findall(r"\d+", self.version)[:2])
        return (first, second) >= REFITS_FROM[self.rung]

    def fault(self, what: str) -> EngineUnavailable:
        """Return the error to raise after the library answered no, with the last that its logger heard."""
        heard, self.logger.heard[:] = list(self.logger.heard), []
        kind = OutOfMemory if any(NO_MEMORY.search(one) for one in heard) else EngineUnavailable
        return kind(f"{self.rung} {self.version} {what} ({heard[-1] if heard else 'it does not say why'})")


@lru_cache
def provider(rung: str) -> Provider:
    """Return the library of a rung; EngineUnavailable if it is not installed or does not load."""
    reasons = []
    for name in MODULES[rung]:
        try:
            api = import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(first_line(error))
            continue
        return Provider(rung, api, listener(api))
    raise EngineUnavailable(f"its library is not installed ({reasons[-1]})")


def listener(api: Any) -> Any:
    """Return a logger that keeps the first line of each error in its list `heard`."""
    errors = (api.ILogger.INTERNAL_ERROR, api.ILogger.ERROR)

    class Listener(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.heard: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                self.heard[:] = [*self.heard[-9:], next(iter(message.splitlines()), "")[:300]]

    return Listener()


def profile_of(batch: int) -> Profile:
    """Return the optimisation profile of a package that asks for batches of up to `batch`: 1, 4, 8 at most."""
    return 1, min(4, batch), min(8, batch)


def flags(supplier: Provider, refit: bool) -> tuple[str, ...]:
    """Return the builder flags, as they stand in a plan's key; TF32, which is on by default, is always cleared."""
    return ("REFIT",) if refit and supplier.refits else ()


def build_plan(
    supplier: Provider, graph: bytes, profile: Profile, wanted: Sequence[str] = (), timings: bytes = b""
) -> tuple[bytes, bytes]:
    """Return a plan of an ONNX graph (n, channels, axes…) and the builder's timings, to be given to the next build.

    `wanted`: builder flags. A plan with REFIT needs a GPU to be built; without, TensorRT-RTX builds anywhere.
    Raises EngineUnavailable for a graph it cannot build, OutOfMemory where memory did not suffice.
    """
    api = supplier.api
    supplier.logger.heard.clear()
    builder = api.Builder(supplier.logger)
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.OnnxParser(network, supplier.logger)
    if not parser.parse(graph):
        faults = [parser.get_error(n).desc() for n in range(parser.num_errors)]
        supplier.logger.heard.extend(first_line(ValueError(one)) for one in faults[-1:])
        raise supplier.fault("cannot read the graph")
    config = builder.create_builder_config()
    config.clear_flag(api.BuilderFlag.TF32)
    for flag in wanted:
        config.set_flag(getattr(api.BuilderFlag, flag))
    add_profile(builder, config, network, profile)
    cache = None if supplier.is_rtx else config.create_timing_cache(timings)
    if cache is not None:
        config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise supplier.fault("cannot build the graph")
    return bytes(plan), bytes(cache.serialize()) if cache is not None else b""


def add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> None:
    """Add the optimisation profile of the network's only input (batch, channels, axes…) to `config`."""
    image = network.get_input(0)
    batch, *window = tuple(image.shape)
    if network.num_inputs != 1 or network.num_outputs != 1 or min(window) < 1:
        raise EngineUnavailable("the graph has more than one input or answer, or windows of no fixed size")
    sizes = profile if batch == -1 else (batch,) * 3
    optimisation = builder.create_optimization_profile()
    optimisation.set_shape(image.name, *((size, *window) for size in sizes))
    config.add_optimization_profile(optimisation)

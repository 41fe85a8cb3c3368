"""Engines: one call, several ways to compute it. An engine is disposable and used only after parity.

Nothing heavy is imported here; each rung imports its library when it is tried. A rung that is skipped is never
skipped in silence: `EngineChoice.skipped` holds the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from appliance.errors import EngineUnavailable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.package import Package
    from models.parity import Agreement

# rung → module with `engines(package, rung, place) -> Iterator[Engine]`, best first
RUNGS: dict[str, str] = {
    "tensorrt": "models.engines.tensorrt",
    "tensorrt-rtx": "models.engines.tensorrt",
    "torch-cuda": "models.engines.torch",
    "openvino": "models.engines.openvino",
    "onnxruntime": "models.engines.onnxruntime",
    "torch": "models.engines.torch",
}
NEEDS_GPU = frozenset({"tensorrt", "tensorrt-rtx", "torch-cuda"})


class OutOfMemory(EngineUnavailable):
    """The device's memory did not suffice; a smaller batch, or the next rung, may."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory did not suffice, an engine's or a library's own."""
    said = isinstance(error, RuntimeError) and re.search(r"out of memory|alloc", str(error), re.IGNORECASE)
    return isinstance(error, OutOfMemory | MemoryError) or bool(said)


@dataclass(frozen=True)
class Place:
    """Where engines run and what they keep."""

    device: str = "auto"  # or "cpu", "cuda:0"
    cache: Path | None = None  # folder of built engines; None keeps nothing
    threads: int = 0  # of a CPU engine; 0: as many as there are cores

    @property
    def cuda(self) -> str:
        """The CUDA device an engine of a GPU rung runs on."""
        return "cuda:0" if self.device == "auto" else self.device


class Engine(Protocol):
    """A package made ready to compute on one device."""

    @property
    def name(self) -> str:
        """Rung of the ladder, e.g. "openvino"."""
        ...

    @property
    def precision(self) -> str:
        """Number format it computes in: "f32", "f16" or "bf16"."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it takes and leaves tensors."""
        ...

    def run(self, batch: Tensor) -> Tensor:
        """Return float32 answers (n, channels, axes…) of windows (n, channels, axes…) on its device.

        Raises OutOfMemory, or EngineUnavailable for whatever else its library cannot do.
        """
        ...

    def close(self) -> None:
        """Give memory back; the engine cannot be used afterwards."""
        ...


@dataclass(frozen=True)
class EngineChoice:
    """The engine that was taken, how it agreed, and why each rung above it was not taken."""

    engine: Engine
    skipped: tuple[tuple[str, str], ...] = ()  # (rung, reason)
    parity: tuple[Agreement, ...] = ()


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, or the error's name where there is none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def choose_engine(package: Package, backends: Sequence[str], place: Place = Place()) -> EngineChoice:
    """Return the first engine of `backends` that runs here and agrees with the package's golden cases.

    Raises EngineUnavailable, naming every reason, if none does.
    """
    skipped: list[tuple[str, str]] = []
    for rung in backends:
        try:
            for engine in candidates(package, rung, place):
                agreed, reason = judged(engine, package)
                if not reason:
                    return EngineChoice(engine, tuple(skipped), tuple(agreed))
                skipped.append((f"{rung} {engine.precision}", reason))
                engine.close()
        except EngineUnavailable as reason:
            skipped.append((rung, str(reason)))
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            skipped.append((rung, f"out of memory: {first_line(error)}"))
    reasons = "; ".join(f"{rung}: {reason}" for rung, reason in skipped) or "no backend is named"
    raise EngineUnavailable(f"{package.name} runs on no engine here: {reasons}")


def judged(engine: Engine, package: Package) -> tuple[list[Agreement], str]:
    """Return how an engine agrees with the golden cases, and why it may not be used, "" if it may."""
    from models.parity import agreements

    try:
        found = agreements(engine, package)
    except EngineUnavailable as error:
        return [], str(error)
    except BaseException:
        engine.close()
        raise
    return found, next((one.reason for one in found if one.reason), "")


def candidates(package: Package, rung: str, place: Place) -> Iterator[Engine]:
    """Yield the engines of one rung, best first, not yet compared; EngineUnavailable says why there is none."""
    if rung not in RUNGS:
        raise EngineUnavailable(f"no such backend; there are {', '.join(RUNGS)}")
    if rung in NEEDS_GPU and place.device == "cpu":
        raise EngineUnavailable("needs a GPU, and the settings say device = cpu")
    try:
        module: Any = import_module(RUNGS[rung])
        yield from module.engines(package, rung, place)
    except ImportError as error:
        raise EngineUnavailable(f"its library is not installed ({error.name})") from error

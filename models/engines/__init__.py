"""Engines: one call, several ways to compute it. An engine is disposable and used only after parity.

Nothing heavy is imported here; each rung imports its library when it is tried. A rung that is skipped is never
skipped in silence: `EngineChoice.skipped` holds the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from appliance.errors import EngineUnavailable

if TYPE_CHECKING:
    from models.package import Package

# rung → module with `load(package, device) -> Engine`; None: planned, not built
RUNGS: dict[str, str | None] = {
    "tensorrt": None,
    "tensorrt-rtx": None,
    "torch-cuda": "models.engines.torch",
    "openvino": "models.engines.openvino",
    "onnxruntime": "models.engines.onnxruntime",
    "torch": "models.engines.torch",
}
NEEDS_GPU = frozenset({"tensorrt", "tensorrt-rtx", "torch-cuda"})


class Engine(Protocol):
    """A package made ready to compute on one device."""

    @property
    def name(self) -> str:
        """Rung of the ladder, e.g. "openvino"."""
        ...

    @property
    def precision(self) -> str:
        """Number format it computes in, e.g. "f32"."""
        ...

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (n, classes, x, y, z) of windows (n, channels, x, y, z)."""
        ...

    def close(self) -> None:
        """Give memory back; the engine cannot be used afterwards."""
        ...


@dataclass(frozen=True)
class EngineChoice:
    """The engine that was taken, and why each rung above it was not."""

    engine: Engine
    skipped: tuple[tuple[str, str], ...] = ()  # (rung, reason)


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, or the error's name where there is none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def choose_engine(package: Package, backends: Sequence[str], device: str = "auto") -> EngineChoice:
    """Return the first engine of `backends` that runs here and agrees with the package's golden case.

    `device`: "auto", "cpu" or e.g. "cuda:0". Raises EngineUnavailable, naming every reason, if none does.
    """
    skipped: list[tuple[str, str]] = []
    for rung in backends:
        try:
            return EngineChoice(proven_engine(rung, package, device), tuple(skipped))
        except EngineUnavailable as reason:
            skipped.append((rung, str(reason)))
    reasons = "; ".join(f"{rung}: {reason}" for rung, reason in skipped) or "no backend is named"
    raise EngineUnavailable(f"{package.id}@{package.version} runs on no engine here: {reasons}")


def proven_engine(rung: str, package: Package, device: str) -> Engine:
    """Return the engine of one rung after parity; EngineUnavailable says why not."""
    from models.parity import disagreement

    engine = load_engine(rung, package, device)
    try:
        reason = disagreement(engine, package)
    except BaseException:
        engine.close()
        raise
    if reason:
        engine.close()
        raise EngineUnavailable(reason)
    return engine


def load_engine(rung: str, package: Package, device: str) -> Engine:
    """Return the engine of one rung, not yet compared; EngineUnavailable says why it cannot be had."""
    if rung not in RUNGS:
        raise EngineUnavailable(f"no such backend; there are {', '.join(RUNGS)}")
    if rung in NEEDS_GPU and device == "cpu":
        raise EngineUnavailable("needs a GPU, and the settings say device = cpu")
    module = RUNGS[rung]
    if module is None:
        raise EngineUnavailable("not built into this version yet")
    try:
        engine: Engine = import_module(module).load(package, rung, device)
    except ImportError as error:
        raise EngineUnavailable(f"its library is not installed ({error.name})") from error
    return engine

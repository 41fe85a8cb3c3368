"""OpenVINO on the CPU: the usual engine where there is no GPU. It would pick bf16 by itself; here the package decides.

Where the package allows bf16 and the CPU has matrix units for it, three windows are timed in both formats: thin
dilated networks are slower in bf16.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import openvino
import torch
from torch import Tensor

from appliance.errors import EngineUnavailable
from models.engines import Engine, OutOfMemory, Place, first_line
from models.engines.graph import checked_graph
from models.engines.not_built import NotBuilt
from models.package import Package
from models.parity import golden_cases

TRIAL_WINDOWS = 3
HINTS = {"f32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """A compiled graph and one request."""

    name = "openvino"
    device = torch.device("cpu")

    def __init__(self, graph: bytes, precision: str = "f32", threads: int = 0) -> None:
        self.precision = precision
        core = openvino.Core()
        hints: dict[str, object] = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            hints["INFERENCE_NUM_THREADS"] = threads
        try:
            self._request = core.compile_model(core.read_model(graph), "CPU", hints).create_infer_request()
        except RuntimeError as error:
            raise EngineUnavailable(f"OpenVINO cannot compile the graph ({first_line(error)})") from error

    def run(self, batch: Tensor) -> Tensor:
        """Return answers (n, channels, axes…) of windows (n, channels, axes…)."""
        try:
            answer = self._request.infer([batch.contiguous().numpy()], share_inputs=True)
        except MemoryError as error:
            raise OutOfMemory("OpenVINO: out of memory") from error
        except RuntimeError as error:
            kind = OutOfMemory if "alloc" in str(error).lower() else EngineUnavailable
            raise kind(f"OpenVINO cannot run the graph ({first_line(error)})") from error
        return torch.from_numpy(answer[0].copy()).float()

    def close(self) -> None:
        """Give the compiled graph back."""
        del self._request


def engines(package: Package, rung: str, place: Place) -> Iterator[Engine]:  # noqa: ARG001
    """Yield the package on OpenVINO: bf16 first where it is allowed, possible here and faster; then f32."""
    graph = checked_graph(package.path("model.onnx"))
    plain = OpenVinoEngine(graph, "f32", place.threads)
    if "bf16" in package.manifest.precision.allowed and has_bf16():
        yield from faster_half(graph, package, plain, place)
    yield plain


def faster_half(graph: bytes, package: Package, plain: OpenVinoEngine, place: Place) -> Iterator[Engine]:
    """Yield the package in bf16 if that is faster here, or what says why it cannot be had; f32 comes after."""
    try:
        half = OpenVinoEngine(graph, "bf16", place.threads)
        faster = trial_s(half, package) < trial_s(plain, package)
    except EngineUnavailable as reason:
        yield NotBuilt("openvino", "bf16", reason)
        return
    if faster:
        yield half
    else:
        half.close()


def has_bf16() -> bool:
    """Return whether this CPU computes bf16 in hardware."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def trial_s(engine: OpenVinoEngine, package: Package) -> float:
    """Return the seconds of the fastest of three windows; one more goes before them, to warm up."""
    window = torch.from_numpy(golden_cases(package)[0].image)[None]
    spent = []
    for _ in range(TRIAL_WINDOWS + 1):
        start = time.perf_counter()
        engine.run(window)
        spent.append(time.perf_counter() - start)
    return min(spent[1:])

"""ONNX Runtime on the CPU: the portable engine. Its threads must never spin while they wait."""

from __future__ import annotations

from collections.abc import Iterator

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as faults
from torch import Tensor

from appliance.errors import EngineUnavailable
from models.engines import Engine, OutOfMemory, Place, first_line
from models.engines.graph import checked_graph
from models.package import Package

# what ONNX Runtime raises when it cannot load or run a graph; they share no base but Exception
FAULTS = (
    faults.Fail,
    faults.InvalidArgument,
    faults.InvalidGraph,
    faults.NotImplemented,
    faults.RuntimeException,
    RuntimeError,
)


class OnnxRuntimeEngine:
    """One session."""

    name = "onnxruntime"
    precision = "f32"
    device = torch.device("cpu")

    def __init__(self, graph: bytes, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except FAULTS as error:
            raise EngineUnavailable(f"ONNX Runtime cannot load the graph ({first_line(error)})") from error
        self._input = self._session.get_inputs()[0].name

    def run(self, batch: Tensor) -> Tensor:
        """Return answers (n, channels, axes…) of windows (n, channels, axes…)."""
        try:
            (answer,) = self._session.run(None, {self._input: batch.contiguous().numpy()})
        except FAULTS as error:
            kind = OutOfMemory if "alloc" in str(error).lower() else EngineUnavailable
            raise kind(f"ONNX Runtime cannot run the graph ({first_line(error)})") from error
        return torch.from_numpy(answer).float()

    def close(self) -> None:
        """Give the session back."""
        del self._session


def engines(package: Package, rung: str, place: Place) -> Iterator[Engine]:  # noqa: ARG001
    """Yield the package on ONNX Runtime."""
    yield OnnxRuntimeEngine(checked_graph(package.path("model.onnx")), place.threads)

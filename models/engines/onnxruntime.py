"""ONNX Runtime on the CPU: the portable engine. Its threads must never spin while they wait."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as faults

from appliance.errors import EngineUnavailable
from models.engines import first_line
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

    def __init__(self, graph: bytes, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (n, classes, x, y, z) of windows (n, channels, x, y, z)."""
        try:
            (answer,) = self._session.run(None, {self._input: np.ascontiguousarray(batch)})
        except FAULTS as error:
            raise EngineUnavailable(f"ONNX Runtime cannot run the graph ({first_line(error)})") from error
        return np.asarray(answer, dtype=np.float32)

    def close(self) -> None:
        """Give the session back."""
        del self._session


def load(package: Package, _rung: str = "onnxruntime", _device: str = "cpu", threads: int = 0) -> OnnxRuntimeEngine:
    """Return the package on ONNX Runtime; `threads` 0: as many as there are cores."""
    graph = checked_graph(package.path("model.onnx"))
    try:
        return OnnxRuntimeEngine(graph, threads)
    except FAULTS as error:
        raise EngineUnavailable(f"ONNX Runtime cannot load the graph ({first_line(error)})") from error

"""OpenVINO on the CPU: the usual engine where there is no GPU. Always f32; it would pick bf16 by itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import openvino

from appliance.errors import EngineUnavailable
from models.engines import first_line
from models.engines.graph import checked_graph
from models.package import Package


class OpenVinoEngine:
    """A compiled graph and one request."""

    name = "openvino"
    precision = "f32"

    def __init__(self, graph: bytes, threads: int = 0) -> None:
        core = openvino.Core()
        hints: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            hints["INFERENCE_NUM_THREADS"] = threads
        self._request = core.compile_model(core.read_model(graph), "CPU", hints).create_infer_request()

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (n, classes, x, y, z) of windows (n, channels, x, y, z)."""
        try:
            answer = self._request.infer([np.ascontiguousarray(batch)], share_inputs=True)
        except RuntimeError as error:
            raise EngineUnavailable(f"OpenVINO cannot run the graph ({first_line(error)})") from error
        return np.asarray(answer[0], dtype=np.float32)

    def close(self) -> None:
        """Give the compiled graph back."""
        del self._request


def load(package: Package, _rung: str = "openvino", _device: str = "cpu", threads: int = 0) -> OpenVinoEngine:
    """Return the package on OpenVINO; `threads` 0: as many as there are cores."""
    graph = checked_graph(package.path("model.onnx"))
    try:
        return OpenVinoEngine(graph, threads)
    except RuntimeError as error:
        raise EngineUnavailable(f"OpenVINO cannot compile the graph ({first_line(error)})") from error

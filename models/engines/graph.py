"""Reading model.onnx with suspicion. It must never follow a path that the graph names.

The digest of the file has been checked with the package; here the graph itself is: one file, a size that fits
in memory, only ONNX's own operators.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from appliance.errors import PackageRefused

MAX_GRAPH_BYTES = 2**31 - 1  # of a protobuf message
DOMAINS = frozenset({"", "ai.onnx"})


def checked_graph(path: Path) -> bytes:
    """Return the bytes of a self-contained ONNX graph; PackageRefused says what is wrong with it."""
    if path.stat().st_size > MAX_GRAPH_BYTES:
        raise PackageRefused(f"{path.name}: larger than {MAX_GRAPH_BYTES} bytes")
    raw = path.read_bytes()
    try:
        model = onnx.load_model_from_string(raw)
        onnx.checker.check_model(model)
    except Exception as error:
        raise PackageRefused(f"{path.name}: not a valid ONNX graph ({type(error).__name__})") from error
    refuse_foreign(model, path.name)
    return raw


def refuse_foreign(model: onnx.ModelProto, name: str) -> None:
    """Raise PackageRefused for external data, foreign operators or functions."""
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise PackageRefused(f"{name}: keeps weights outside the file")
    foreign = sorted({node.domain for node in model.graph.node} - DOMAINS)
    if foreign or model.functions:
        raise PackageRefused(f"{name}: has operators of {foreign or 'its own functions'}; only ONNX's are allowed")

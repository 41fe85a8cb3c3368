"""What of an ONNX graph decides how a plan looks: two graphs with the same hash differ in trained numbers alone.

It must never count a trained number, and never leave out one that shapes the graph. The exporter merges initialisers of
equal values, so a fresh network and its trained copy may differ in structure: then a plan is built, not refitted.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import onnx

FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
)
# operators whose float inputs are no weights: a builder reads them to lay out the graph
SHAPED_BY_FLOATS = frozenset({"Clip", "Pad", "Range", "Resize"})


def structure_hash(graph: bytes) -> str:
    """Return a SHA-256 of operators, attributes, names, shapes and number formats of a serialized ONNX model."""
    model = onnx.load_model_from_string(graph)
    described = {
        "opsets": sorted((one.domain, one.version) for one in model.opset_import),
        "inputs": [_port(one) for one in model.graph.input],
        "outputs": [_port(one) for one in model.graph.output],
        "nodes": [_node(one) for one in model.graph.node],
        "weights": _weights(model.graph),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _port(port: onnx.ValueInfoProto) -> list[Any]:
    kind = port.type.tensor_type
    return [port.name, kind.elem_type, [one.dim_param or one.dim_value for one in kind.shape.dim]]


def _node(node: onnx.NodeProto) -> list[Any]:
    attributes = sorted(
        [one.name, hashlib.sha256(one.SerializeToString(deterministic=True)).hexdigest()] for one in node.attribute
    )
    return [node.domain, node.op_type, list(node.input), list(node.output), attributes]


def _weights(graph: onnx.GraphProto) -> list[list[Any]]:
    shaping = {name for node in graph.node if node.op_type in SHAPED_BY_FLOATS for name in node.input}
    found = []
    for one in graph.initializer:
        counts = one.data_type not in FLOATS or one.name in shaping
        value = hashlib.sha256(onnx.numpy_helper.to_array(one).tobytes()).hexdigest() if counts else ""
        found.append([one.name, one.data_type, list(one.dims), value])
    return sorted(found)

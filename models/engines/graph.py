"""Reading model.onnx with suspicion. It must never follow a path that the graph names.

The digest of the file has been checked with the package; here the graph itself is: one file, a size that fits
in memory, an opset that the engines know, and only operators that networks are made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from appliance.errors import PackageRefused

MAX_GRAPH_BYTES = 2**31 - 1  # of a protobuf message
MAX_NODES = 20_000
DOMAINS = frozenset({"", "ai.onnx"})
OPSETS = range(17, 24)
NAMES = """Abs Add ArgMax AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose
    CumSum DepthToSpace Div Dropout Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements Gelu Gemm
    GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity
    InstanceNormalization LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min
    Mish Mod Mul Neg Not Or PRelu Pad Pow Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize Round Selu Shape Sigmoid Sign Sin Cos Size Slice Softmax Softplus SpaceToDepth
    Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu Unsqueeze Where And"""
OPERATORS = frozenset(NAMES.split())


def checked_graph(path: Path) -> bytes:
    """Return the bytes of a self-contained ONNX graph; PackageRefused says what is wrong with it."""
    if path.stat().st_size > MAX_GRAPH_BYTES:
        raise PackageRefused(f"{path.name}: larger than {MAX_GRAPH_BYTES} bytes")
    raw = path.read_bytes()
    try:
        model = onnx.load_model_from_string(raw)
    except Exception as error:
        raise PackageRefused(f"{path.name}: not a valid ONNX graph ({type(error).__name__})") from error
    refuse_foreign(model, path.name)  # first: the checker would look for external files
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise PackageRefused(f"{path.name}: not a valid ONNX graph ({type(error).__name__})") from error
    return raw


def refuse_foreign(model: onnx.ModelProto, name: str) -> None:
    """Raise PackageRefused for external data, foreign opsets, operators or functions, and graphs inside of graphs."""
    for entry in model.opset_import:
        if entry.domain not in DOMAINS or entry.version not in OPSETS:
            raise PackageRefused(f"{name}: opset {entry.version} of {entry.domain or 'ONNX'} is not allowed")
    if model.functions or model.training_info:
        raise PackageRefused(f"{name}: has its own functions; only ONNX's operators are allowed")
    if len(model.graph.node) > MAX_NODES:
        raise PackageRefused(f"{name}: has more than {MAX_NODES} operators")
    foreign = sorted(
        {one.op_type for one in model.graph.node if one.domain not in DOMAINS or one.op_type not in OPERATORS}
    )
    if foreign:
        raise PackageRefused(f"{name}: operator {foreign[0]} is not one that networks need")
    for tensor in tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise PackageRefused(f"{name}: keeps weights outside the file")


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor a graph holds: initialisers, and those in attributes of its operators."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.g.node or attribute.graphs:
                raise PackageRefused(f"operator {node.op_type} holds a graph of its own; that is not allowed")
            yield from (attribute.t, *attribute.tensors, attribute.sparse_tensor.values)

"""The structure hash knows everything of a graph but its trained numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from models.engines.structure import structure_hash
from models.networks import ThinUNet
from models.package import Package
from models.packaging import write_graph

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def original(shipped: Package) -> bytes:
    return shipped.path("model.onnx").read_bytes()


def replaced(graph: onnx.GraphProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the values of one initialiser."""
    tensor = next(one for one in graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def node(graph: onnx.GraphProto, operator: str) -> onnx.NodeProto:
    """Return the first operator of a type."""
    return next(one for one in graph.node if one.op_type == operator)


def weight(graph: onnx.GraphProto) -> str:
    """Return the name of the first convolution's weights."""
    return str(node(graph, "Conv").input[1])


def widened(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[2].dim_value += 8


def padded(graph: onnx.GraphProto) -> None:
    next(one for one in node(graph, "Conv").attribute if one.name == "pads").ints[0] += 1


CHANGES: dict[str, Callable[[onnx.GraphProto], object]] = {
    "weights": lambda graph: replaced(graph, weight(graph), lambda values: values * 1.5),
    "shape": lambda graph: replaced(graph, weight(graph), lambda values: values[:-1]),
    "format": lambda graph: replaced(graph, weight(graph), lambda values: values.astype(np.float16)),
    "attribute": padded,
    "operator": lambda graph: setattr(node(graph, "Relu"), "op_type", "Elu"),
    "edge": lambda graph: node(graph, "Conv").input.__setitem__(0, "elsewhere"),
    "window": widened,
    "scales": lambda graph: replaced(graph, node(graph, "Resize").input[2], lambda values: values * 2),
    "sizes": lambda graph: graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 4]), "sizes")),
    "other sizes": lambda graph: graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 8]), "sizes")),
}


def changed(raw: bytes, what: str) -> bytes:
    """Return a graph with one thing changed."""
    model = onnx.load_model_from_string(raw)
    CHANGES[what](model.graph)
    return bytes(model.SerializeToString())


def test_other_weights_do_not_change_it(original: bytes) -> None:
    assert changed(original, "weights") != original
    assert structure_hash(changed(original, "weights")) == structure_hash(original)


@pytest.mark.parametrize("what", ["shape", "format", "attribute", "operator", "edge", "window", "scales"])
def test_whatever_else_changes_it(original: bytes, what: str) -> None:
    assert structure_hash(changed(original, what)) != structure_hash(original)


def test_whole_numbers_are_sizes_and_count(original: bytes) -> None:
    assert structure_hash(changed(original, "sizes")) != structure_hash(changed(original, "other sizes"))


def written(network: nn.Module, path: Path) -> bytes:
    """Return the graph of a network as packages hold it."""
    write_graph(network.eval(), (1, 16, 16, 16), path)
    return path.read_bytes()


def small(seed: int, trained: bool) -> nn.Module:
    """Return a small network; a trained one has no two tensors of equal values."""
    torch.manual_seed(seed)
    network = ThinUNet(1, 2, [4, 8], [1, 2], [1])
    with torch.no_grad():
        for tensor in network.parameters() if trained else ():
            tensor.add_(torch.rand_like(tensor))
    return network


def test_two_trained_copies_are_alike_and_a_fresh_one_is_not(tmp_path: Path) -> None:
    """The exporter merges initialisers of equal values, such as the ones and zeros of fresh normalisations."""
    one, other = (structure_hash(written(small(seed, True), tmp_path / f"{seed}.onnx")) for seed in (1, 2))
    fresh = structure_hash(written(small(3, False), tmp_path / "fresh.onnx"))
    assert one == other
    assert fresh != one

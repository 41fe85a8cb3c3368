"""A graph in halves keeps float32 at both ends and in blocked operators, and computes nearly the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from appliance.errors import EngineUnavailable
from models.engines.half_graph import in_halves, recipe
from models.engines.onnxruntime import OnnxRuntimeEngine
from models.package import Package
from models.parity import GoldenCase

HALF, SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def formats(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the number format of each value between operators."""
    inferred = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph)).graph
    known = {one.name: one.type.tensor_type.elem_type for one in (*inferred.value_info, *inferred.input)}
    return known | {one.name: one.data_type for one in graph.initializer}


def used_formats(raw: bytes, operator: str) -> set[int]:
    """Return the number formats that operators of a type are given; whole numbers (sizes, axes) do not count."""
    graph = onnx.load_model_from_string(raw).graph
    known = formats(graph)
    found = {known[name] for node in graph.node if node.op_type == operator for name in node.input if name}
    return found & {HALF, SINGLE}


@pytest.fixture(scope="module")
def original(shipped: Package) -> bytes:
    return shipped.path("model.onnx").read_bytes()


def test_both_ends_stay_float32_and_the_inside_is_half(original: bytes) -> None:
    raw = in_halves(original)
    graph = onnx.load_model_from_string(raw).graph
    assert [one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)] == [SINGLE, SINGLE]
    assert used_formats(raw, "Conv") == {HALF}
    assert len(raw) < 0.6 * len(original)


def test_operators_that_a_package_names_stay_float32(original: bytes) -> None:
    assert used_formats(in_halves(original), "InstanceNormalization") == {HALF}
    kept = in_halves(original, ["InstanceNormalization"])
    assert used_formats(kept, "InstanceNormalization") == {SINGLE}
    assert used_formats(kept, "Conv") == {HALF}


def test_onnx_runtime_computes_nearly_the_same_of_it(original: bytes, golden: GoldenCase) -> None:
    batch = torch.from_numpy(golden.image)[None]
    expected = OnnxRuntimeEngine(original).run(batch).numpy()
    found = OnnxRuntimeEngine(in_halves(original)).run(batch).numpy()
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 1e-2 * np.ptp(expected)


def test_the_recipe_names_the_tool_its_version_and_what_is_kept() -> None:
    assert recipe(["Resize", "Add"]) == recipe(["Add", "Resize"]) == "f16 onnxconverter-common 1.16.0 keep Add,Resize"


def test_a_graph_that_cannot_be_converted_is_said_in_one_line(original: bytes) -> None:
    with pytest.raises(EngineUnavailable, match="already converted"):
        in_halves(in_halves(original))

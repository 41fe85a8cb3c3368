"""The ladder takes the first engine that agrees with the golden case, and says why it passed over the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from appliance.errors import EngineUnavailable, PackageRefused
from models.engines import RUNGS, choose_engine, load_engine
from models.engines.graph import checked_graph
from models.package import Package, load_package, write_manifest
from models.parity import STRIDE, GoldenCase, difference, golden_case

LADDER = ["tensorrt", "tensorrt-rtx", "torch-cuda", "openvino", "onnxruntime", "torch"]


def with_other_weights(folder: Path, change: float) -> Package:
    """Return the package with one weight of the last layer changed in the graph, listed anew."""
    model = onnx.load(str(folder / "model.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "head.bias":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[2] += change
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder)
    return load_package(folder)


def test_every_rung_has_a_place() -> None:
    assert list(RUNGS) == LADDER


def test_on_a_machine_without_gpu_openvino_is_taken_and_each_skipped_rung_has_its_reason(shipped: Package) -> None:
    choice = choose_engine(shipped, LADDER, "cpu")
    assert (choice.engine.name, choice.engine.precision) == ("openvino", "f32")
    assert [rung for rung, _ in choice.skipped] == LADDER[:3]
    assert all(reason for _, reason in choice.skipped)
    choice.engine.close()


@pytest.mark.parametrize("rung", ["openvino", "onnxruntime", "torch"])
def test_each_engine_gives_the_golden_labels(shipped: Package, rung: str) -> None:
    golden = golden_case(shipped)
    engine = choose_engine(shipped, [rung], "cpu").engine
    logits = engine.run(golden.image[None, None])
    engine.close()
    assert logits.dtype == np.float32
    assert (logits[0].argmax(0) == golden.labels).mean() > 0.9997
    np.testing.assert_allclose(logits[0][:, ::STRIDE, ::STRIDE, ::STRIDE], golden.logits, atol=2e-2)


def test_altered_weights_fail_parity_and_the_next_rung_is_taken(copied: Path) -> None:
    package = with_other_weights(copied, 0.5)
    choice = choose_engine(package, ["openvino", "onnxruntime", "torch"], "cpu")
    assert choice.engine.name == "torch"
    assert [rung for rung, _ in choice.skipped] == ["openvino", "onnxruntime"]
    assert all("golden" in reason for _, reason in choice.skipped)


def test_where_no_rung_is_left_every_reason_is_named(shipped: Package) -> None:
    with pytest.raises(EngineUnavailable, match=r"tensorrt: not built.*abacus: no such backend"):
        choose_engine(shipped, ["tensorrt", "abacus"], "auto")
    with pytest.raises(EngineUnavailable, match="no backend is named"):
        choose_engine(shipped, [])


@pytest.mark.parametrize("rung", ["openvino", "onnxruntime", "torch"])
def test_what_a_library_cannot_run_is_said_in_one_line(shipped: Package, rung: str) -> None:
    engine = load_engine(rung, shipped, "cpu")
    with pytest.raises(EngineUnavailable, match="cannot run") as fault:
        engine.run(np.zeros((1, 2, 16, 16, 16), np.float32))
    engine.close()
    assert "\n" not in str(fault.value)


def golden_and_answer(shipped: Package) -> tuple[GoldenCase, np.ndarray]:
    """Return a made-up golden case of two classes and the answer that agrees with it."""
    logits = np.random.default_rng(1).normal(size=(2, 16, 16, 16)).astype(np.float32)
    golden = GoldenCase(
        logits[0], np.ascontiguousarray(logits[:, ::STRIDE, ::STRIDE, ::STRIDE]), logits.argmax(0).astype(np.uint8)
    )
    assert difference(logits, golden, shipped.manifest.parity) == ""
    return golden, logits


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_fails_parity(shipped: Package, bad: float) -> None:
    golden, logits = golden_and_answer(shipped)
    logits[1, 3, 3, 3] = bad
    assert "NaN" in difference(logits, golden, shipped.manifest.parity)


def test_flipped_labels_between_the_stored_logits_fail_parity(shipped: Package) -> None:
    golden, logits = golden_and_answer(shipped)
    logits[:, 1, 1, :] = logits[::-1, 1, 1, :]
    assert "otherwise" in difference(logits, golden, shipped.manifest.parity)


def test_a_wrong_shape_fails_parity(shipped: Package) -> None:
    golden, logits = golden_and_answer(shipped)
    assert "shape" in difference(logits[:, :8], golden, shipped.manifest.parity)


def test_weights_that_do_not_fit_are_refused_and_never_unpickled(copied: Path) -> None:
    weights = load_file(copied / "weights.safetensors")
    save_file({name: array for name, array in weights.items() if name != "head.bias"}, copied / "weights.safetensors")
    write_manifest(copied)
    with pytest.raises(PackageRefused, match="does not fit"):
        choose_engine(load_package(copied), ["torch"])


def test_a_graph_with_weights_elsewhere_or_foreign_operators_is_refused(copied: Path) -> None:
    path = copied / "model.onnx"
    model = onnx.load(str(path))
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(PackageRefused, match=r"model\.onnx: has operators"):
        checked_graph(path)
    path.write_bytes(b"not a graph")
    with pytest.raises(PackageRefused, match="not a valid ONNX graph"):
        checked_graph(path)

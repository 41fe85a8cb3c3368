"""The ladder takes the first engine that agrees with the golden case, and says why it passed over the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file, save_file

from appliance.errors import EngineUnavailable, PackageRefused
from models.deciding import joined
from models.engines import RUNGS, Engine, Place, candidates, choose_engine
from models.engines.graph import checked_graph
from models.engines.torch import trained_network
from models.outputs import Classification
from models.package import Package, load_package, write_manifest
from models.parity import STRIDE, GoldenCase, compared

CPU = Place("cpu")
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
    choice = choose_engine(shipped, LADDER, CPU)
    assert (choice.engine.name, choice.engine.precision) == ("openvino", "f32")
    assert [rung for rung, _ in choice.skipped] == LADDER[:3]
    assert all(reason for _, reason in choice.skipped)
    choice.engine.close()


@pytest.mark.parametrize("rung", ["openvino", "onnxruntime", "torch"])
def test_each_engine_gives_the_golden_labels(shipped: Package, golden: GoldenCase, rung: str) -> None:
    choice = choose_engine(shipped, [rung], CPU)
    answer = choice.engine.run(torch.from_numpy(golden.image)[None])
    choice.engine.close()
    assert answer.dtype == torch.float32
    assert (answer[0].argmax(0).numpy() == golden.labels).mean() > 0.9997
    thinned = answer[0, :, ::STRIDE, ::STRIDE, ::STRIDE].numpy()
    np.testing.assert_allclose(thinned, golden.output, atol=2e-2)
    assert choice.parity[0].flips < 3e-4
    assert min(choice.parity[0].dice.values()) > 0.9995


def test_altered_weights_fail_parity_and_the_next_rung_is_taken(copied: Path) -> None:
    package = with_other_weights(copied, 0.5)
    choice = choose_engine(package, ["openvino", "onnxruntime", "torch"], CPU)
    assert choice.engine.name == "torch"
    assert [rung for rung, _ in choice.skipped] == ["openvino f32", "onnxruntime f32"]
    assert all("golden" in reason for _, reason in choice.skipped)


def test_where_no_rung_is_left_every_reason_is_named(shipped: Package) -> None:
    with pytest.raises(EngineUnavailable, match=r"tensorrt: needs a GPU.*abacus: no such backend"):
        choose_engine(shipped, ["tensorrt", "abacus"], CPU)
    with pytest.raises(EngineUnavailable, match="no backend is named"):
        choose_engine(shipped, [])


@pytest.mark.parametrize("rung", ["openvino", "onnxruntime", "torch"])
def test_what_a_library_cannot_run_is_said_in_one_line(shipped: Package, rung: str) -> None:
    engine = next(candidates(shipped, rung, CPU))
    with pytest.raises(EngineUnavailable, match="cannot run") as fault:
        engine.run(torch.zeros(1, 2, 16, 16, 16))
    engine.close()
    assert "\n" not in str(fault.value)


def golden_and_answer(shipped: Package) -> tuple[GoldenCase, np.ndarray]:
    """Return a made-up golden case of two classes and the answer that agrees with it."""
    logits = np.random.default_rng(1).normal(size=(2, 16, 16, 16)).astype(np.float32)
    thinned = np.ascontiguousarray(logits[:, ::STRIDE, ::STRIDE, ::STRIDE])
    golden = GoldenCase("made up", logits[:1], thinned, logits.argmax(0).astype(np.uint8))
    assert difference(logits, golden, shipped) == ""
    return golden, logits


def difference(answer: np.ndarray, golden: GoldenCase, package: Package) -> str:
    """Return why an answer is too far from a golden case."""
    return compared(answer, golden, package.manifest.outputs, package.manifest.parity.f32).reason


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_fails_parity(shipped: Package, bad: float) -> None:
    golden, logits = golden_and_answer(shipped)
    logits[1, 3, 3, 3] = bad
    assert "NaN" in difference(logits, golden, shipped)


def test_flipped_labels_between_the_stored_logits_fail_parity(shipped: Package) -> None:
    golden, logits = golden_and_answer(shipped)
    logits[:, 1, 1, :] = logits[::-1, 1, 1, :]
    assert "otherwise" in difference(logits, golden, shipped)


def test_a_wrong_shape_fails_parity(shipped: Package) -> None:
    golden, logits = golden_and_answer(shipped)
    assert "shape" in difference(logits[:, :8], golden, shipped)


CLASSES = Classification.model_validate(
    {
        "kind": "classification",
        "classes": [{"name": n, "code": {"value": "1", "meaning": n}} for n in ("no", "yes")],
        "positive": 1,
        "threshold": 0.5,
        "guard_band": 0.001,
    }
)


@pytest.mark.parametrize(
    ("golden", "answer", "words"),
    [((0.0, 1.0), (0.0, 1.0), ""), ((0.0, 1.0), (0.0, 1.001), ""), ((0.0, 0.01), (0.0, -0.01), "otherwise"),
     ((0.0, 0.001), (0.0, -0.001), ""), ((0.0, 1.0), (0.0, 1.2), "")],
)  # fmt: skip
def test_a_classifier_may_not_decide_otherwise_outside_of_its_guard_band(
    shipped: Package, golden: tuple[float, float], answer: tuple[float, float], words: str
) -> None:
    wide = shipped.manifest.parity.f32.model_copy(update={"max_abs_of_range": 10.0, "max_probability": 0.1})
    case = GoldenCase("made up", np.zeros((1, 4), np.float32), np.array(golden, np.float32), None)
    found = compared(np.array(answer, np.float32), case, CLASSES, wide)
    assert (words in found.reason) if words else not found.reason
    assert found.probability == pytest.approx(
        abs(joined(torch.tensor([answer]), CLASSES)[1] - joined(torch.tensor([golden]), CLASSES)[1]), abs=1e-6
    )


def test_an_engine_that_runs_out_of_memory_is_named_as_such(shipped: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.engines import OutOfMemory

    engine: Engine = next(candidates(shipped, "torch", CPU))

    def exhausted(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(engine, "_network", exhausted)
    with pytest.raises(OutOfMemory):
        engine.run(torch.zeros(1, 1, 8, 8, 8))


def test_weights_that_do_not_fit_are_refused_and_never_unpickled(copied: Path) -> None:
    weights = load_file(copied / "weights.safetensors")
    save_file({name: array for name, array in weights.items() if name != "head.bias"}, copied / "weights.safetensors")
    write_manifest(copied)
    with pytest.raises(PackageRefused, match="does not fit"):
        choose_engine(load_package(copied), ["torch"])


def test_weights_kept_as_halves_are_computed_with_as_float32(copied: Path) -> None:
    weights = load_file(copied / "weights.safetensors")
    save_file({name: array.astype(np.float16) for name, array in weights.items()}, copied / "weights.safetensors")
    write_manifest(copied)
    assert {one.dtype for one in trained_network(load_package(copied)).parameters()} == {torch.float32}


def test_a_graph_with_weights_elsewhere_or_foreign_operators_is_refused(copied: Path) -> None:
    path = copied / "model.onnx"
    model = onnx.load(str(path))
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(PackageRefused, match=r"model\.onnx: opset 1 of com\.example"):
        checked_graph(path)
    path.write_bytes(b"not a graph")
    with pytest.raises(PackageRefused, match="not a valid ONNX graph"):
        checked_graph(path)


def spoilt(change: str, model: onnx.ModelProto) -> None:
    """Do to a graph what `change` says."""
    if change == "operator":
        model.graph.node[0].op_type = "Loop"
    elif change == "opset":
        model.opset_import[0].version = 9
    elif change == "outside":
        tensor = model.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"
    elif change == "function":
        model.functions.add().name = "own"
    elif change == "inner":
        inner = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "inner", [], [])
        model.graph.node[0].attribute.append(onnx.helper.make_attribute("body", inner))


@pytest.mark.parametrize(
    ("change", "words"),
    [("operator", "operator Loop"), ("opset", "opset 9"), ("outside", "outside the file"),
     ("function", "own functions"), ("inner", "graph of its own")],
)  # fmt: skip
def test_what_a_graph_may_not_hold_is_refused_by_name(copied: Path, change: str, words: str) -> None:
    path = copied / "model.onnx"
    model = onnx.load(str(path))
    spoilt(change, model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(PackageRefused, match=words):
        checked_graph(path)


@pytest.mark.parametrize("breaks", ["compiling", "running"])
def test_bf16_that_cannot_be_had_costs_bf16_alone(
    shipped: Package, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    from models.engines import openvino

    class NoHalf(openvino.OpenVinoEngine):
        def __init__(self, graph: bytes, precision: str = "f32", threads: int = 0) -> None:
            if (breaks, precision) == ("compiling", "bf16"):
                raise EngineUnavailable("no bf16 here")
            super().__init__(graph, "f32", threads)
            self.precision = precision

        def run(self, batch: torch.Tensor) -> torch.Tensor:
            if (breaks, self.precision) == ("running", "bf16"):
                raise EngineUnavailable("no bf16 here")
            return super().run(batch)

    monkeypatch.setattr(openvino, "OpenVinoEngine", NoHalf)
    monkeypatch.setattr(openvino, "has_bf16", lambda: True)
    precision = shipped.manifest.precision.model_copy(update={"allowed": ("f32", "bf16")})
    halves = replace(shipped, manifest=shipped.manifest.model_copy(update={"precision": precision}))
    choice = choose_engine(halves, ["openvino"], Place("cpu"))
    assert (choice.engine.name, choice.engine.precision) == ("openvino", "f32")
    assert choice.skipped == (("openvino bf16", "no bf16 here"),)

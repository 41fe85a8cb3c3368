"""On a machine with an NVIDIA GPU: each rung agrees with the CPU, refits are right, want of memory is survived.

What is not installed is skipped with the reason that the ladder gives.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from appliance.errors import EngineUnavailable
from models.engines import Engine, Place, candidates, choose_engine
from models.package import Package, load_package, write_manifest
from models.parity import GoldenCase

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]
GPU_RUNGS = ["tensorrt", "tensorrt-rtx", "torch-cuda"]
MIB = 2**20


@pytest.fixture(scope="session", autouse=True)
def said(record_testsuite_property: object) -> None:
    """Put device and versions into the report (make test-gpu writes .build/test-gpu.xml)."""
    if torch.cuda.is_available():
        record_testsuite_property("gpu", torch.cuda.get_device_name())  # type: ignore[operator]
        record_testsuite_property("torch", f"{torch.__version__}, CUDA {torch.version.cuda}")  # type: ignore[operator]


@contextmanager
def engine_of(package: Package, rung: str, precision: str, place: Place) -> Iterator[Engine]:
    """Give the engine of a rung in one precision; the test is skipped where the ladder says why there is none."""
    try:
        engine = next(one for one in candidates(package, rung, place) if one.precision == precision)
        engine.run(torch.zeros(1, 1, *package.manifest.inference.roi, device="cuda"))
    except EngineUnavailable as reason:
        pytest.skip(f"{rung} {precision}: {reason}")
    yield engine
    engine.close()


@pytest.mark.parametrize("precision", ["f16", "f32"])
@pytest.mark.parametrize("rung", GPU_RUNGS)
def test_each_rung_agrees_with_the_reference_whatever_the_batch_and_wherever_it_lies(
    shipped: Package, rung: str, precision: str
) -> None:
    reference = choose_engine(shipped, ["torch"], Place("cpu")).engine
    windows = torch.rand((9, 1, *shipped.manifest.inference.roi), generator=torch.Generator().manual_seed(1914))
    expected = reference.run(windows[:3])
    limit = shipped.manifest.parity.of(precision).max_abs_of_range * float(expected.max() - expected.min())
    with engine_of(shipped, rung, precision, Place()) as engine:
        for count in (1, 3, 9, 1):
            answer = engine.run(windows[:count].to(engine.device))
            assert answer.is_cuda
            assert answer.dtype == torch.float32
            assert answer.shape[0] == count
            assert (answer[:3].cpu() - expected[:count]).abs().max() < limit
        if rung != "torch-cuda":  # windows of the host, one after the other through both pinned buffers
            answers = [engine.run(windows[n : n + 1]) for n in (0, 1, 2)]
            assert (torch.cat(answers).cpu() - expected).abs().max() < limit


@pytest.mark.parametrize("rung", GPU_RUNGS)
def test_each_rung_passes_the_golden_cases(shipped: Package, rung: str, tmp_path: Path) -> None:
    place = Place(cache=tmp_path / "engines")
    try:
        first = choose_engine(shipped, [rung], place)
    except EngineUnavailable as reason:
        pytest.skip(str(reason))
    assert first.engine.precision == "f16"
    assert all(one.reason == "" for one in first.parity)
    first.engine.close()
    again = choose_engine(shipped, [rung], place)  # a kept plan, where there are plans
    assert (again.engine.name, again.engine.precision, again.skipped) == (rung, "f16", ())
    again.engine.close()


@pytest.mark.parametrize("rung", ["tensorrt", "tensorrt-rtx"])
def test_a_refitted_plan_answers_with_the_new_weights_and_the_old_one_with_the_old(
    shipped: Package, golden: GoldenCase, rung: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.engines import tensorrt
    from models.engines.provider import provider

    place = Place(cache=tmp_path / "engines")
    shift = 0.004 * float(np.ptp(golden.output))
    changed = shifted(shipped, tmp_path / "next", shift)
    batch = torch.from_numpy(golden.image)[None]
    with engine_of(shipped, rung, "f16", place) as old:
        if not provider(rung).refits:
            pytest.skip(f"{rung} {provider(rung).version} may drop a bias when it refits")
        before = old.run(batch)

        def build(*_: object) -> None:
            raise AssertionError("built, not refitted")

        monkeypatch.setattr(tensorrt, "build_plan", build)
        new = choose_engine(changed, [rung], place)
        assert new.engine.precision == "f16"
        after = new.engine.run(batch)
        assert float((after - before)[:, 2].mean()) == pytest.approx(shift, rel=0.1)
        assert torch.equal(old.run(batch), before)
        new.engine.close()


def shifted(package: Package, folder: Path, shift: float) -> Package:
    """Return a copy whose third class has its bias raised."""
    shutil.copytree(package.folder, folder)
    model = onnx.load(str(folder / "model.onnx"))
    tensor = next(one for one in model.graph.initializer if one.name == "head.bias")
    values = numpy_helper.to_array(tensor).copy()
    values[2] += shift
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder)
    return load_package(folder)


def test_where_the_gpu_has_too_little_memory_the_next_rung_is_taken_and_says_why(shipped: Package) -> None:
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 24 * MIB) / total)
    try:
        choice = choose_engine(shipped, ["torch-cuda", "torch"])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert choice.engine.name == "torch"
    assert [rung for rung, _ in choice.skipped] == ["torch-cuda f16", "torch-cuda f32"]
    assert all("memory" in reason for _, reason in choice.skipped)

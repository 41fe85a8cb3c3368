"""TensorRT's rungs: why they are not taken, when a plan is kept, refitted or built; and real builds by TensorRT-RTX.

Where no GPU is, a stand-in runs a "plan" that is the graph itself, on ONNX Runtime: what is tested is which plan is
used, not the library. The builds marked trt are the library's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper

from appliance.errors import EngineUnavailable
from models.engines import EngineChoice, OutOfMemory, Place, choose_engine, tensorrt
from models.engines.graph import checked_graph
from models.engines.half_graph import in_halves
from models.engines.onnxruntime import OnnxRuntimeEngine
from models.engines.plan_cache import Gpu
from models.engines.provider import Provider, build_plan, flags, profile_of, provider
from models.package import Package, load_package, write_manifest
from models.registry import ZOO

RUNG = ["tensorrt"]


class Api:
    """What is asked of the library before anything is built."""

    __version__ = "11.4.0.106"


class Ear:
    heard: list[str]

    def __init__(self) -> None:
        self.heard = []


class StandIn:
    """Runs a plan on the CPU; the plan is the graph."""

    refittable = True
    refits = 0

    def __init__(self, supplier: Provider, plan: bytes, precision: str, device: torch.device, kernels: bytes) -> None:
        self.name, self.precision, self.device = supplier.rung, precision, torch.device("cpu")
        self.plan = plan

    def run(self, batch: torch.Tensor) -> torch.Tensor:
        return OnnxRuntimeEngine(self.plan).run(batch)

    def refit(self, graph: bytes) -> None:
        StandIn.refits += 1
        self.plan = graph

    def serialized(self) -> bytes:
        return self.plan

    def kernels(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


class Gpus:
    """A host that seems to have a GPU; counts what is built."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.builds: list[tuple[str, ...]] = []
        self.place = Place(cache=folder)
        self.supplier = Provider("tensorrt", Api(), Ear())
        self.driver = "580.65"
        StandIn.refits = 0
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(tensorrt, "provider", lambda rung: self.supplier)
        monkeypatch.setattr(tensorrt, "gpu_at", lambda device: Gpu("NVIDIA X", "9.0", 132, self.driver, "13.0"))
        monkeypatch.setattr(tensorrt, "build_plan", self.build)
        monkeypatch.setattr(tensorrt, "PlanEngine", StandIn)

    def build(self, supplier: Provider, graph: bytes, profile: Any, wanted: Any, timings: bytes) -> tuple[bytes, bytes]:
        self.builds.append(tuple(wanted))
        return graph, b"timings"

    def choice(self, package: Package) -> EngineChoice:
        return choose_engine(package, RUNG, self.place)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpus:
    return Gpus(monkeypatch, tmp_path / "engines")


def retrained(package: Package, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Package:
    """Return a copy of a package with another graph, listed anew."""
    shutil.copytree(package.folder, folder)
    model = onnx.load(str(folder / "model.onnx"))
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder)
    return load_package(folder)


def changed_by(share: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(one for one in model.graph.initializer if one.name == "head.bias")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + share, tensor.name))

    return change


def renamed(model: onnx.ModelProto) -> None:
    """Change the structure and nothing that is computed."""
    port = model.graph.node[-1].output[0]
    model.graph.node[-1].output[0] = model.graph.output[0].name = f"{port}_renamed"


def test_without_a_gpu_both_rungs_say_so_and_nothing_is_built(shipped: Package, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(EngineUnavailable, match=r"tensorrt: needs a GPU.*tensorrt-rtx: needs a GPU"):
        choose_engine(shipped, ["tensorrt", "tensorrt-rtx"], Place(cache=tmp_path / "engines"))
    assert not (tmp_path / "engines").exists()


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, shipped: Package) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("models.engines.provider.MODULES", {"tensorrt": ("no_such_tensorrt",)})
    provider.cache_clear()
    with pytest.raises(EngineUnavailable, match=r"tensorrt: its library is not installed .*no_such_tensorrt"):
        choose_engine(shipped, RUNG)
    provider.cache_clear()


def test_halves_come_first_and_a_kept_plan_is_not_built_again(gpus: Gpus, shipped: Package) -> None:
    assert gpus.choice(shipped).engine.precision == "f16"
    assert gpus.choice(shipped).engine.precision == "f16"
    assert gpus.builds == [("REFIT",)]


def test_after_a_change_of_driver_the_plan_is_built_anew(gpus: Gpus, shipped: Package) -> None:
    gpus.choice(shipped)
    gpus.driver = "590.10"
    gpus.choice(shipped)
    assert len(gpus.builds) == 2


def test_other_weights_in_the_same_structure_are_refitted_into_a_second_copy(
    gpus: Gpus, shipped: Package, tmp_path: Path
) -> None:
    first: Any = gpus.choice(shipped).engine
    before = first.plan
    package = retrained(shipped, tmp_path / "next", changed_by(1e-4))
    second: Any = gpus.choice(package).engine
    assert (len(gpus.builds), StandIn.refits) == (1, 1)
    assert first.plan == before != second.plan
    assert second.plan == in_halves(package.path("model.onnx").read_bytes())
    for one, plan in ((shipped, before), (package, second.plan)):  # both are kept: rollback needs no build
        engine: Any = gpus.choice(one).engine
        assert engine.plan == plan
    assert (len(gpus.builds), StandIn.refits) == (1, 1)


def test_another_structure_is_built(gpus: Gpus, shipped: Package, tmp_path: Path) -> None:
    gpus.choice(shipped)
    gpus.choice(retrained(shipped, tmp_path / "next", renamed))
    assert (len(gpus.builds), StandIn.refits) == (2, 0)


@pytest.mark.parametrize(("version", "wanted"), [("11.3.0.9", ()), ("10.13.3", ()), ("11.4.0.106", ("REFIT",))])
def test_versions_that_drop_a_bias_when_refitted_are_not_refitted(version: str, wanted: tuple[str, ...]) -> None:
    api = Api()
    api.__version__ = version
    assert flags(Provider("tensorrt", api, Ear()), refit=True) == wanted
    assert flags(Provider("tensorrt", api, Ear()), refit=False) == ()


def test_an_engine_that_disagrees_is_passed_over_with_its_reason_and_never_kept(
    gpus: Gpus, shipped: Package, tmp_path: Path
) -> None:
    package = retrained(shipped, tmp_path / "broken", changed_by(0.5))
    changed = choose_engine(package, ["tensorrt", "torch"], gpus.place)
    assert changed.engine.name == "torch"
    assert [rung for rung, _ in changed.skipped] == ["tensorrt f16", "tensorrt f32"]
    assert all("golden" in reason for _, reason in changed.skipped)
    assert not list((tmp_path / "engines").glob("*.plan"))


def test_an_older_plan_that_cannot_be_loaded_is_dropped_and_a_build_takes_its_place(
    gpus: Gpus, shipped: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.choice(shipped)
    loaded = []

    class Unloadable(StandIn):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            loaded.append(self.plan)
            if self.plan == loaded[0]:
                raise EngineUnavailable("cannot load a plan")

    monkeypatch.setattr(tensorrt, "PlanEngine", Unloadable)
    newer = retrained(shipped, tmp_path / "newer", changed_by(1e-4))
    choice = gpus.choice(newer)
    assert (choice.engine.name, choice.skipped) == ("tensorrt", ())
    assert len(gpus.builds) == 2
    monkeypatch.setattr(tensorrt, "PlanEngine", StandIn)
    gpus.choice(shipped)
    assert len(gpus.builds) == 2, "the newer plan was refitted: the older one is gone"
    assert StandIn.refits == 1


def test_a_refit_that_disagrees_is_not_used_but_built(
    gpus: Gpus, shipped: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.choice(shipped)

    def wrong(engine: StandIn, graph: bytes) -> None:
        model = onnx.load_model_from_string(graph)
        tensor = next(one for one in model.graph.initializer if one.name == "head.bias")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 9, tensor.name))
        engine.plan = model.SerializeToString()

    monkeypatch.setattr(StandIn, "refit", wrong)
    choice = gpus.choice(retrained(shipped, tmp_path / "next", changed_by(1e-4)))
    assert (choice.engine.name, choice.engine.precision, choice.skipped) == ("tensorrt", "f16", ())
    assert len(gpus.builds) == 2


def test_a_kept_plan_that_no_longer_agrees_is_removed_and_built_anew(
    gpus: Gpus, shipped: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.choice(shipped)
    right, wrong = StandIn.run, iter([True])
    monkeypatch.setattr(StandIn, "run", lambda one, batch: right(one, batch) + (9 if next(wrong, False) else 0) * batch)
    choice = gpus.choice(shipped)
    assert [rung for rung, _ in choice.skipped] == ["tensorrt f16"]
    assert (choice.engine.precision, len(gpus.builds)) == ("f16", 2)


def test_a_precision_that_cannot_be_built_gives_way_to_the_next_with_its_reason(
    gpus: Gpus, shipped: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(supplier: Provider, graph: bytes, *rest: Any) -> tuple[bytes, bytes]:
        if graph != shipped.path("model.onnx").read_bytes():
            raise EngineUnavailable("no kernel for halves")
        return graph, b""

    monkeypatch.setattr(tensorrt, "build_plan", built)
    choice = gpus.choice(shipped)
    assert choice.engine.precision == "f32"
    assert choice.skipped == (("tensorrt f16", "no kernel for halves"),)


def test_what_the_logger_heard_tells_memory_from_other_faults() -> None:
    supplier = Provider("tensorrt", Api(), Ear())
    supplier.logger.heard.append("Error Code 2: OutOfMemory (Requested size was 9 bytes.)")
    fault = supplier.fault("cannot run the graph")
    assert isinstance(fault, OutOfMemory)
    assert "11.4.0.106 cannot run the graph (Error Code 2" in str(fault)
    assert not isinstance(supplier.fault("cannot run the graph"), OutOfMemory)


def test_profiles_are_one_four_eight_and_never_beyond_the_packages_batch() -> None:
    assert [profile_of(batch) for batch in (1, 2, 8, 64)] == [(1, 1, 1), (1, 2, 2), (1, 4, 8), (1, 4, 8)]


@pytest.mark.trt
@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("folder", sorted(path.parent for path in ZOO.glob("*/MANIFEST.json")), ids=lambda p: p.name)
def test_tensorrt_rtx_builds_every_shipped_package(folder: Path, precision: str) -> None:
    try:
        supplier = provider("tensorrt-rtx")
    except EngineUnavailable as reason:
        pytest.skip(f"TensorRT-RTX: {reason}")
    package = load_package(folder)
    graph = checked_graph(package.path("model.onnx"))
    if precision == "f16":
        graph = in_halves(graph, package.manifest.precision.keep_f32)
    plan, _ = build_plan(supplier, graph, profile_of(package.manifest.inference.batch))
    assert len(plan) > 0.4 * len(graph)
    with pytest.raises(EngineUnavailable, match=r"cannot read the graph \(.*parse"):
        build_plan(supplier, graph[:1000], profile_of(1))

"""The shelf keeps within its memory, goes down the ladder when memory runs out, and loses no study on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import models.inference
from appliance.errors import EngineUnavailable, Missing
from appliance.volume import Volume
from models.engines import EngineChoice, OutOfMemory, Place
from models.package import Package
from models.reading import Reading
from models.shelf import Shelf

PLACE = Place("cpu")


class Small:
    """An engine that takes batches of at most `most` windows."""

    precision, device = "f32", torch.device("cpu")

    def __init__(self, name: str, most: int) -> None:
        self.name, self.most = name, most
        self.batches: list[int] = []
        self.closed = False

    def run(self, batch: Tensor) -> Tensor:
        self.batches.append(len(batch))
        if len(batch) > self.most:
            raise OutOfMemory("no room")
        answer = torch.zeros((len(batch), 8, *batch.shape[2:]))
        answer[:, 2] = batch[:, 0] - 0.5
        return answer

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Small]:
    """Rungs "wide" (nothing fits), "narrow" (one window at a time) and "plain"."""
    made = {"wide": Small("wide", 0), "narrow": Small("narrow", 1), "plain": Small("plain", 99)}

    def choose(package: Package, backends: Any, place: Place) -> EngineChoice:
        for rung in backends:
            return EngineChoice(made[rung])
        raise EngineUnavailable(f"{package.name} runs on no engine here: no backend is named")

    monkeypatch.setattr("models.shelf.choose_engine", choose)
    return made


@pytest.fixture
def batched(shipped: Package) -> Package:
    plan = shipped.manifest.inference.model_copy(update={"batch": 4, "roi": (16, 16, 16)})
    return replace(shipped, manifest=shipped.manifest.model_copy(update={"inference": plan}))


def read(shelf: Shelf, package: Package, head: Volume) -> tuple[np.ndarray, Any]:
    reading, loaded = shelf.read([[head]], package)
    return reading.label_maps[0], loaded


def test_a_batch_that_does_not_fit_is_halved_and_the_answer_is_the_same(
    engines: dict[str, Small], batched: Package, head: Volume
) -> None:
    expected, _ = read(Shelf(["plain"], PLACE), batched, head)
    found, loaded = read(Shelf(["narrow", "plain"], PLACE), batched, head)
    assert loaded.choice.engine.name == "narrow"
    assert engines["narrow"].batches[:4] == [4, 2, 1, 1]
    np.testing.assert_array_equal(found, expected)


def test_where_not_even_one_fits_the_next_rung_is_taken_and_the_reason_is_kept(
    engines: dict[str, Small], batched: Package, head: Volume
) -> None:
    shelf = Shelf(["wide", "plain"], PLACE)
    found, loaded = read(shelf, batched, head)
    assert found.any()
    assert loaded.choice.engine.name == "plain"
    assert loaded.choice.skipped == (("wide", "no room"),)
    assert engines["wide"].closed
    assert loaded.record()["skipped"] == [["wide", "no room"]]
    assert shelf.take(batched) is loaded


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("where", ["models.inference.prepared", "models.inference.window_weight"])
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda one: type(one).__name__)
def test_memory_that_ends_beside_the_network_costs_the_rung_and_not_the_job(
    engines: dict[str, Small],
    batched: Package,
    head: Volume,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: BaseException,
) -> None:
    raised = []
    real = getattr(models.inference, where.rpartition(".")[2])

    def full_once(*given: Any) -> Any:
        if not raised:
            raised.append(error)
            raise error
        return real(*given)

    monkeypatch.setattr(where, full_once)
    found, loaded = read(Shelf(["narrow", "plain"], PLACE), batched, head)
    assert found.any()
    assert loaded.choice.engine.name == "plain"
    assert loaded.choice.skipped[0][0] == "narrow"
    assert engines["narrow"].closed


def test_another_error_beside_the_network_is_not_taken_for_memory(
    engines: dict[str, Small], batched: Package, head: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*given: Any) -> None:
        raise RuntimeError("expected a tensor of another shape")

    monkeypatch.setattr("models.inference.prepared", wrong)
    with pytest.raises(RuntimeError, match="another shape"):
        read(Shelf(["narrow", "plain"], PLACE), batched, head)


def test_an_engine_that_breaks_costs_the_rung_and_not_the_job(
    engines: dict[str, Small], batched: Package, head: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines["narrow"], "run", broken)
    monkeypatch.setattr(engines["narrow"], "close", stuck)
    shelf = Shelf(["narrow", "plain"], PLACE)
    found, loaded = read(shelf, batched, head)
    assert found.any()
    assert loaded.choice.skipped == (("narrow", "CUDA error: an illegal memory access"),)
    assert not shelf.broken, "no GPU is concerned"
    monkeypatch.setattr("models.shelf.NEEDS_GPU", frozenset({"narrow"}))
    read(shelf := Shelf(["narrow", "plain"], PLACE), batched, head)
    assert shelf.broken


def test_the_last_reason_is_not_lost(
    engines: dict[str, Small], batched: Package, head: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines["plain"], "run", broken)
    with pytest.raises(EngineUnavailable, match="plain: CUDA error: an illegal memory access; "):
        read(Shelf(["plain"], PLACE), batched, head)


def stuck() -> None:
    """Fail as a library does whose device is gone."""
    raise RuntimeError("CUDA error: an illegal memory access")


def broken(*given: object) -> Tensor:
    """Fail as a GPU does that holds an error."""
    raise EngineUnavailable("CUDA error: an illegal memory access")


def test_where_no_rung_is_left_it_is_said(engines: dict[str, Small], batched: Package, head: Volume) -> None:
    with pytest.raises(EngineUnavailable):
        Shelf(["wide"], PLACE).read([[head]], batched)


def test_two_packages_on_too_small_a_budget_take_turns_and_both_finish(
    engines: dict[str, Small], batched: Package, head: Volume
) -> None:
    other = replace(batched, digest="f" * 64)
    shelf = Shelf(["plain"], PLACE, memory_gb=0.001)
    for package in (batched, other, batched):
        assert read(shelf, package, head)[0].any()
        assert shelf.held == (package.digest,)


def test_with_room_for_both_the_one_used_longest_ago_goes_first(engines: dict[str, Small], batched: Package) -> None:
    mb = batched.manifest.resources.memory_mb
    packages = [replace(batched, digest=letter * 64) for letter in "abc"]
    shelf = Shelf(["plain"], PLACE, memory_gb=mb * 2.5 / 1024)
    for package in (packages[0], packages[1], packages[0], packages[2]):
        shelf.take(package)
    assert shelf.held == (packages[0].digest, packages[2].digest)


def test_memory_is_measured_once_a_package_ran(engines: dict[str, Small], batched: Package, head: Volume) -> None:
    shelf = Shelf(["plain"], PLACE)
    assert shelf.take(batched).record()["memory_mb"] is None
    assert read(shelf, batched, head)[1].record()["memory_mb"] > 1


def test_a_locator_that_is_not_installed_is_named(shipped: Package, head: Volume) -> None:
    plan = {
        "package": "elsewhere@1.0.0", "segments": [1], "min_volume_ml": 1.0, "above_extent_mm": 10.0,
        "regions": [{"name": "left", "low": [0, 0, 0], "high": [1, 1, 1]}],
    }  # fmt: skip
    from models.inputs import Locator

    located = shipped.manifest.model_copy(update={"locator": Locator.model_validate(plan)})
    with pytest.raises(Missing, match=r"elsewhere@1\.0\.0 found something; install that package"):
        Shelf(["openvino"], PLACE).read([[head]], replace(shipped, manifest=located))


def test_a_locator_is_needed_where_it_is_needed_and_its_engine_is_told(
    engines: dict[str, Small], batched: Package, head: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {
        "package": batched.name, "segments": [1, 2, 3, 4, 5, 6, 7], "min_volume_ml": 0.001, "above_extent_mm": 1e6,
        "regions": [{"name": "left", "low": [0, 0, 0], "high": [1, 1, 1]}],
    }  # fmt: skip
    from models.inputs import Locator

    located = batched.manifest.model_copy(update={"locator": Locator.model_validate(plan)})
    package = replace(batched, manifest=located, digest="f" * 64)
    assert Shelf(["plain"], PLACE).read([[head]], package)[0].located == (), "the volume is small as it is"
    monkeypatch.setattr("models.inputs.Locator.is_needed", lambda plan, volume: True)
    monkeypatch.setattr("models.shelf.read_regions", lambda volumes, boxes, package, engine, progress: Reading())
    shelf = Shelf(["wide", "plain"], PLACE)
    shelf.prepare([[head]], package, batched, None)
    assert shelf.held == (batched.digest, package.digest)
    reading, _ = shelf.read([[head]], package, batched)
    assert reading.located == (f"{batched.name} (on plain f32, not on wide: no room)",)

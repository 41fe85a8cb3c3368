"""Who computes a network on a GPU: PyTorch as it is, with autocast, as CUDA graphs; TensorRT and TensorRT-RTX.

PyTorch's subjects need nothing but PyTorch; what TensorRT's need is imported when they are asked for, and what is not
there is said in a sentence.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from appliance.errors import CurieError, EngineUnavailable
from bench.networks import EVERY, exported, made

DEVICE = torch.device("cuda:0")
EAGER, AMP, GRAPH_F32, GRAPH_AMP = "torch eager f32", "torch AMP f16", "CUDA graph f32", "CUDA graph AMP f16"
TORCH = (EAGER, AMP, GRAPH_F32, GRAPH_AMP)
PLANS = {f"{rung} {number}": (rung, number) for rung in ("tensorrt", "tensorrt-rtx") for number in ("f16", "f32")}
SUBJECTS = (*TORCH, *PLANS)
PROFILE = (1, 4, 8)
Call = Callable[[Tensor], Tensor]


class Absent(Exception):
    """A subject or part of a benchmark cannot be had here; the message says why."""


@contextmanager
def saying_why() -> Iterator[None]:
    """Turn what a missing library or an engine that cannot be built raises into Absent."""
    try:
        yield
    except ImportError as error:
        raise Absent(f"{error.name} is not installed on this machine") from error
    except CurieError as error:
        raise Absent(str(error)) from error


def network_on_gpu(name: str, half: bool) -> nn.Module:
    """Return a network on the GPU; for halves in the layout that tensor cores like."""
    with saying_why():
        network = made(name).to(DEVICE)
    volumes = len(EVERY[name].window) == 4
    layout = torch.channels_last_3d if volumes else torch.channels_last
    moved: nn.Module = network.to(memory_format=layout) if half else network  # type: ignore[call-overload]
    return moved


def call_of(subject: str, name: str) -> Call:
    """Return what computes float32 answers of a batch on the GPU; raises Absent."""
    if subject in PLANS:
        return planned(*PLANS[subject], name)
    half = subject in (AMP, GRAPH_AMP)
    network = network_on_gpu(name, half)
    layout = torch.channels_last_3d if len(EVERY[name].window) == 4 else torch.channels_last

    def plain(batch: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=half, cache_enabled=False):
            answer: Tensor = network(batch.contiguous(memory_format=layout) if half else batch)
        return answer.float()

    return plain if subject in (EAGER, AMP) else Captured(plain)


class Captured:
    """A call captured as a CUDA graph for the first shape it is given, and replayed."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._graph: torch.cuda.CUDAGraph | None = None

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Tensor:
        """Return the answer of a batch, always of the same shape."""
        if self._graph is None:
            self._capture(batch)
        self._given.copy_(batch)
        assert self._graph is not None
        self._graph.replay()
        return self._answer

    def _capture(self, batch: Tensor) -> None:
        self._given = batch.clone()
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                self._call(self._given)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._answer = self._call(self._given)


@lru_cache
def graph_of(name: str, seed: int = 0) -> bytes:
    """Return a network's ONNX graph; raises Absent where it cannot be exported."""
    with saying_why(), tempfile.TemporaryDirectory() as folder:
        return exported(name, Path(folder), seed).read_bytes()


def planned(rung: str, precision: str, name: str) -> Call:
    """Return the engine of a plan built now; raises Absent."""
    with saying_why():
        from models.engines.half_graph import in_halves
        from models.engines.plan_run import PlanEngine
        from models.engines.provider import build_plan, provider

        supplier = provider(rung)
        graph = graph_of(name) if precision == "f32" else in_halves(graph_of(name))
        plan, _ = build_plan(supplier, graph, PROFILE)
        return PlanEngine(supplier, plan, precision, DEVICE).run


def build_and_refit(rung: str, name: str) -> tuple[Call, Call]:
    """Return what builds a refittable f16 plan of a network, and what loads a second copy and refits it; or Absent."""
    with saying_why():
        from models.engines.half_graph import in_halves
        from models.engines.plan_run import PlanEngine
        from models.engines.provider import build_plan, provider
        from models.engines.structure import structure_hash

        supplier = provider(rung)
        if not supplier.refits:
            raise EngineUnavailable(f"{rung} {supplier.version} may drop a bias in plans that can be refitted")
        one, other = graph_of(name), graph_of(name, seed=1)
        if structure_hash(one) != structure_hash(other):
            raise EngineUnavailable(f"two exports of {name} differ in structure")
        plan, _ = build_plan(supplier, in_halves(one), PROFILE, ("REFIT",))

    def rebuild(batch: Tensor) -> Tensor:
        anew, _ = build_plan(supplier, in_halves(other), PROFILE, ("REFIT",))
        return PlanEngine(supplier, anew, "f16", DEVICE).run(batch)

    def refit(batch: Tensor) -> Tensor:
        engine = PlanEngine(supplier, plan, "f16", DEVICE)
        engine.refit(in_halves(other))
        return engine.run(batch)

    return rebuild, refit

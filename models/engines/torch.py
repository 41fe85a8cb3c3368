"""PyTorch with the package's safetensors weights: the reference, and the plain way onto a CUDA device.

It must never unpickle: weights are safetensors, the architecture is one of models.networks. On a GPU: autocast f16
where the package allows it, channels last, one CUDA graph for each batch size; else float32 without TF32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from appliance.errors import EngineUnavailable, PackageRefused
from models.engines import Engine, OutOfMemory, Place, first_line
from models.networks import GRAPH_ONLY, empty
from models.package import Package

WARM_UP = 3  # runs before a CUDA graph is captured


class TorchEngine:
    """The network in evaluation mode on one device."""

    def __init__(self, network: nn.Module, name: str, device: str, precision: str = "f32") -> None:
        self.name = name
        self.precision = precision
        self.device = torch.device(device)
        self._network = network.to(self.device).eval()

    @torch.inference_mode()
    def run(self, batch: Tensor) -> Tensor:
        """Return answers (n, channels, axes…) of windows (n, channels, axes…)."""
        try:
            return self._answer(batch)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"PyTorch: {first_line(error)}") from error
        except RuntimeError as error:
            kind = OutOfMemory if "alloc" in str(error).lower() else EngineUnavailable
            raise kind(f"PyTorch cannot run the network ({first_line(error)})") from error

    def _answer(self, batch: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            answer: Tensor = self._network(batch)
        return answer.float()

    def close(self) -> None:
        """Give the network back."""
        del self._network


class CudaEngine(TorchEngine):
    """The network on a GPU, each batch size captured once as a CUDA graph and replayed."""

    def __init__(self, network: nn.Module, device: str, precision: str) -> None:
        volumes = any(isinstance(one, nn.Conv3d) for one in network.modules())
        self._layout = torch.channels_last_3d if volumes else torch.channels_last
        network = network.to(device).to(memory_format=self._layout)  # type: ignore[call-overload]
        super().__init__(network, "torch-cuda", device, precision)
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def _answer(self, batch: Tensor) -> Tensor:
        with torch.cuda.device(self.device):  # a graph is captured on the current device
            shape = tuple(batch.shape)
            if shape not in self._graphs:
                self._graphs[shape] = self._captured(batch)
            graph, given, answer = self._graphs[shape]
            given.copy_(batch)
            graph.replay()
            return answer.float().clone()

    def _captured(self, batch: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = batch.clone(memory_format=self._layout)
        beside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self._forward(given)
        torch.cuda.current_stream(self.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = self._forward(given)
        return graph, given, answer

    def _forward(self, given: Tensor) -> Tensor:
        half = torch.autocast("cuda", torch.float16, cache_enabled=False) if self.precision == "f16" else nullcontext()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), half:
            answer: Tensor = self._network(given)
        return answer

    def close(self) -> None:
        """Give the network and its graphs back."""
        self._graphs.clear()
        super().close()
        torch.cuda.empty_cache()


def engines(package: Package, rung: str, place: Place) -> Iterator[Engine]:
    """Yield the package on PyTorch; rung "torch" is the CPU, "torch-cuda" the GPU: f16 where allowed, then f32."""
    if package.manifest.architecture.name == GRAPH_ONLY:
        raise EngineUnavailable("the package is an ONNX graph alone, PyTorch has no network for it")
    if rung == "torch":
        yield TorchEngine(trained_network(package), rung, "cpu")
        return
    if not torch.cuda.is_available():
        raise EngineUnavailable("PyTorch finds no CUDA device")
    if "f16" in package.manifest.precision.allowed:
        yield CudaEngine(trained_network(package), place.cuda, "f16")
    yield CudaEngine(trained_network(package), place.cuda, "f32")


def trained_network(package: Package) -> nn.Module:
    """Return the package's network with its weights; PackageRefused if they do not fit."""
    network = empty(package.manifest.architecture.name, package.manifest.architecture.kwargs)
    try:
        network.load_state_dict(load_file(package.path("weights.safetensors")), assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise PackageRefused("weights.safetensors: does not fit the architecture in package.json") from error
    return network.float()

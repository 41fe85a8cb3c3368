"""PyTorch with the package's safetensors weights: the reference, and the plain way onto a CUDA device.

It must never unpickle: weights are safetensors, the architecture is one of models.networks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from appliance.errors import EngineUnavailable, PackageRefused
from models.engines import first_line
from models.networks import build
from models.package import Package


class TorchEngine:
    """The network in evaluation mode on one device, float32 without TF32."""

    precision = "f32"

    def __init__(self, network: nn.Module, name: str, device: str) -> None:
        self.name = name
        self._device = device
        self._network = network.to(device).eval()

    @torch.inference_mode()
    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (n, classes, x, y, z) of windows (n, channels, x, y, z)."""
        windows = torch.from_numpy(np.ascontiguousarray(batch))
        try:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                logits = self._network(windows.to(self._device)).float().cpu()
        except RuntimeError as error:  # out of memory is one too
            raise EngineUnavailable(f"PyTorch cannot run the network ({first_line(error)})") from error
        return np.asarray(logits.numpy(), np.float32)

    def close(self) -> None:
        """Give the network back."""
        del self._network


def load(package: Package, rung: str = "torch", device: str = "cpu") -> TorchEngine:
    """Return the package on PyTorch; rung "torch" is the CPU, "torch-cuda" the GPU that `device` names."""
    if rung == "torch":
        return TorchEngine(trained_network(package), rung, "cpu")
    if not torch.cuda.is_available():
        raise EngineUnavailable("PyTorch finds no CUDA device")
    return TorchEngine(trained_network(package), rung, "cuda" if device == "auto" else device)


def trained_network(package: Package) -> nn.Module:
    """Return the package's network with its weights; PackageRefused if they do not fit."""
    network = build(package.manifest.architecture.name, package.manifest.architecture.kwargs)
    try:
        network.load_state_dict(load_file(package.path("weights.safetensors")))
    except (SafetensorError, RuntimeError) as error:
        raise PackageRefused("weights.safetensors: does not fit the architecture in package.json") from error
    return network

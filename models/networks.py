"""The network architectures a package may name. It must never load code, weights or files from a package.

A package says `architecture {name, kwargs}`; only the names in ARCHITECTURES exist, and their arguments are
checked by their own signatures. Axes are (batch, channel, x, y, z) throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from appliance.errors import PackageRefused
from models import monai_networks


class SampleNorm(nn.InstanceNorm3d):
    """Instance normalisation; one sample alone goes the way of batch normalisation, the same sum but faster."""

    def forward(self, features: Tensor) -> Tensor:
        """Return `features` (n, c, x, y, z) with mean 0 and variance 1 in each channel, then scaled and shifted."""
        if self.training and features.shape[0] == 1:
            return functional.batch_norm(features, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(features)


@dataclass(frozen=True)
class Layers:
    """The layers of networks over volumes or over slices."""

    convolution: type[nn.Conv2d] | type[nn.Conv3d]
    normalisation: type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]
    interpolation: str


LAYERS = {
    2: Layers(nn.Conv2d, nn.InstanceNorm2d, "bilinear"),
    3: Layers(nn.Conv3d, SampleNorm, "trilinear"),
}


def convolution(inputs: int, outputs: int, stride: int = 1, dimensions: int = 3) -> nn.Sequential:
    """Return a convolution of 3 voxels an axis, instance normalisation and ReLU; `stride` 2 halves each axis."""
    layers = LAYERS[dimensions]
    return nn.Sequential(
        layers.convolution(inputs, outputs, 3, padding=1, stride=stride, bias=False),
        layers.normalisation(outputs, affine=True),
        nn.ReLU(inplace=True),
    )


def check_depth(channels: Sequence[int], repeats: Sequence[int]) -> None:
    """Raise ValueError for more layers than anyone means: each takes time to build, even without memory."""
    if len(channels) > MOST_LEVELS or max(repeats, default=0) > MOST_REPEATS:
        raise ValueError(f"at most {MOST_LEVELS} levels, and {MOST_REPEATS} convolutions on each")


class ThinUNet(nn.Module):
    """A U-Net whose skips are added and whose finest level is thin, so that a CPU can train it.

    `channels`: features per level, finest first. `down`, `up`: convolutions per level on the way down and up.
    `dimensions`: 3 for volumes, 2 for slices. Every axis of the input must be a multiple of 2^(levels − 1).
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        channels: Sequence[int],
        down: Sequence[int],
        up: Sequence[int],
        dimensions: int = 3,
    ) -> None:
        super().__init__()
        check_depth(channels, [*down, *up])
        layers = LAYERS[dimensions]
        self.interpolation = layers.interpolation
        before = [inputs, *channels[:-1]]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                convolution(before[level], width, 2 if level else 1, dimensions),
                *(convolution(width, width, 1, dimensions) for _ in range(down[level] - 1)),
            )
            for level, width in enumerate(channels)
        )
        self.narrow = nn.ModuleList(layers.convolution(wide, width, 1) for width, wide in itertools.pairwise(channels))
        self.decoder = nn.ModuleList(
            nn.Sequential(*(convolution(width, width, 1, dimensions) for _ in range(up[level])))
            for level, width in enumerate(channels[:-1])
        )
        self.head = layers.convolution(channels[0], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (n, classes, axes…) of images (n, inputs, axes…)."""
        features, skips = image, []
        for encode in self.encoder:
            features = encode(features)
            skips.append(features)
        for level in reversed(range(len(self.decoder))):
            narrow = self.narrow[level](features)
            wide = functional.interpolate(narrow, scale_factor=2.0, mode=self.interpolation, align_corners=False)
            features = self.decoder[level](wide + skips[level])
        logits: Tensor = self.head(features)
        return logits


class ThinClassifier(nn.Module):
    """Convolutions that halve each level, the mean and the largest of every feature, and one linear layer.

    `channels`: features per level. `dimensions`: 3 for volumes, 2 for slices.
    """

    def __init__(self, inputs: int, classes: int, channels: Sequence[int], dimensions: int = 3) -> None:
        super().__init__()
        check_depth(channels, [])
        before = [inputs, *channels[:-1]]
        self.levels = nn.Sequential(
            *(
                nn.Sequential(
                    convolution(before[level], width, 2 if level else 1, dimensions),
                    convolution(width, width, 1, dimensions),
                )
                for level, width in enumerate(channels)
            )
        )
        self.head = nn.Linear(2 * channels[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, inputs, axes…)."""
        features = self.levels(image).flatten(2)
        logits: Tensor = self.head(torch.cat([features.mean(2), features.amax(2)], 1))
        return logits


MOST_PARAMETERS = 500_000_000
MOST_LEVELS, MOST_REPEATS = 16, 64  # of a thin network, and of convolutions on one of its levels
GRAPH_ONLY = "onnx"  # stands where a package is a graph and its weights, without a network of ours
ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = {
    "thin-unet": ThinUNet,
    "thin-classifier": ThinClassifier,
    **monai_networks.builders(),
}


def build(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Return the untrained network `name`; PackageRefused for an unknown name or argument, or too large a network."""
    empty(name, kwargs)
    return ARCHITECTURES[name](**kwargs)


def empty(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Return the network `name` without memory (meta device), its parameters counted; PackageRefused as `build`."""
    if name == GRAPH_ONLY:
        raise PackageRefused("package.json: architecture 'onnx' is a graph alone; PyTorch can neither run nor train it")
    if name not in ARCHITECTURES:
        allowed = ", ".join(sorted(ARCHITECTURES))
        raise PackageRefused(f"package.json: architecture {name!r} is not known; allowed are {allowed}")
    try:
        with torch.device("meta"):
            network = ARCHITECTURES[name](**kwargs)
        size = count_parameters(network)
        if size > MOST_PARAMETERS:
            raise ValueError(f"it would have {size} parameters, at most {MOST_PARAMETERS} are allowed")
    except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
        fault = next(iter(str(error).splitlines()), type(error).__name__)
        raise PackageRefused(f"package.json: architecture {name!r} does not take {dict(kwargs)} ({fault})") from error
    return network


def count_parameters(network: nn.Module) -> int:
    """Return the number of trained numbers in `network`."""
    return sum(parameter.numel() for parameter in network.parameters())

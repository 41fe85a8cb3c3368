"""The network architectures a package may name. It must never load code, weights or files from a package.

A package says `architecture {name, kwargs}`; only the names in ARCHITECTURES exist, and their arguments are
checked by their own signatures. Axes are (batch, channel, x, y, z) throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from appliance.errors import PackageRefused


class SampleNorm(nn.InstanceNorm3d):
    """Instance normalisation; one sample alone goes the way of batch normalisation, the same sum but faster."""

    def forward(self, features: Tensor) -> Tensor:
        """Return `features` (n, c, x, y, z) with mean 0 and variance 1 in each channel, then scaled and shifted."""
        if self.training and features.shape[0] == 1:
            return functional.batch_norm(features, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(features)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return 3×3×3 convolution, instance normalisation and ReLU; `stride` 2 halves each axis."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1, stride=stride, bias=False),
        SampleNorm(outputs, affine=True),
        nn.ReLU(inplace=True),
    )


class ThinUNet(nn.Module):
    """A U-Net whose skips are added and whose finest level is thin, so that a CPU can train it.

    `channels`: features per level, finest first. `down`, `up`: convolutions per level on the way down and up.
    Every axis of the input must be a multiple of 2^(levels − 1).
    """

    def __init__(
        self, inputs: int, classes: int, channels: Sequence[int], down: Sequence[int], up: Sequence[int]
    ) -> None:
        super().__init__()
        before = [inputs, *channels[:-1]]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                convolution(before[level], width, 2 if level else 1),
                *(convolution(width, width) for _ in range(down[level] - 1)),
            )
            for level, width in enumerate(channels)
        )
        self.narrow = nn.ModuleList(nn.Conv3d(wide, width, 1) for width, wide in itertools.pairwise(channels))
        self.decoder = nn.ModuleList(
            nn.Sequential(*(convolution(width, width) for _ in range(up[level])))
            for level, width in enumerate(channels[:-1])
        )
        self.head = nn.Conv3d(channels[0], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (n, classes, x, y, z) of images (n, inputs, x, y, z)."""
        features, skips = image, []
        for encode in self.encoder:
            features = encode(features)
            skips.append(features)
        for level in reversed(range(len(self.decoder))):
            narrow = self.narrow[level](features)
            wide = functional.interpolate(narrow, scale_factor=2.0, mode="trilinear", align_corners=False)
            features = self.decoder[level](wide + skips[level])
        logits: Tensor = self.head(features)
        return logits


ARCHITECTURES: Mapping[str, type[nn.Module]] = {"thin-unet": ThinUNet}


def build(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Return the untrained network `name`; PackageRefused for an unknown name or argument."""
    if name not in ARCHITECTURES:
        allowed = ", ".join(sorted(ARCHITECTURES))
        raise PackageRefused(f"package.json: architecture {name!r} is not known; allowed are {allowed}")
    try:
        return ARCHITECTURES[name](**kwargs)
    except (TypeError, ValueError, IndexError) as error:
        raise PackageRefused(f"package.json: architecture {name!r} does not take {dict(kwargs)}") from error


def count_parameters(network: nn.Module) -> int:
    """Return the number of trained numbers in `network`."""
    return sum(parameter.numel() for parameter in network.parameters())

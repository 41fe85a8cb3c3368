"""The networks of the inference benchmarks, with fixed weights, and their ONNX graphs.

Four are MONAI's, in the sizes of its published bundles; MeshNet, which MONAI lacks, is nine dilated convolutions.
Weights are drawn once from a fixed seed: what a network costs does not depend on what it has learnt.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

SEED = 1914
ROI = (96, 96, 96)


@dataclass(frozen=True)
class Network:
    """One network: how it is made and what one of its windows looks like."""

    name: str
    make: Callable[[], nn.Module]
    window: tuple[int, ...]  # (channels, axes…)
    batch: int = 1


def unet() -> nn.Module:
    """Return the UNet of the spleen bundle, 4.8 million parameters."""
    from monai.networks.nets import UNet

    return UNet(3, 1, 2, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2, norm="batch")


def segresnet() -> nn.Module:
    """Return the SegResNet of the BraTS bundle, 4.7 million parameters, one channel in and two classes out."""
    from monai.networks.nets import SegResNet

    return SegResNet(3, 16, 1, 2, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))


def dynunet() -> nn.Module:
    """Return a DynUNet of five levels, 5.6 million parameters."""
    from monai.networks.nets import DynUNet

    return DynUNet(3, 1, 2, [3] * 5, [1, 2, 2, 2, 2], [2, 2, 2, 2], filters=[16, 32, 64, 128, 256])


def densenet121() -> nn.Module:
    """Return a DenseNet121 over slices of 224×224, three channels and two classes."""
    from monai.networks.nets import DenseNet121

    return DenseNet121(2, 3, 2)


def meshnet(width: int = 11) -> nn.Module:
    """Return nine convolutions of one resolution, dilated 1 to 16 and back, 23 thousand parameters."""
    layers: list[nn.Module] = []
    for n, dilation in enumerate((1, 2, 4, 8, 16, 8, 4, 1)):
        conv = nn.Conv3d(width if n else 1, width, 3, padding=dilation, dilation=dilation, bias=False)
        layers += [conv, nn.BatchNorm3d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv3d(width, 2, 1))


def thin_unet() -> nn.Module:
    """Return the U-Net that the shipped packages use, in brain-structures' size; it needs no MONAI."""
    from models.networks import ThinUNet

    return ThinUNet(1, 8, [12, 24, 48, 96], [1, 2, 2, 3], [1, 2, 2])


NETWORKS = {
    one.name: one
    for one in (
        Network("UNet", unet, (1, *ROI)),
        Network("SegResNet", segresnet, (1, *ROI)),
        Network("DynUNet", dynunet, (1, *ROI)),
        Network("MeshNet", meshnet, (1, *ROI)),
        Network("DenseNet121", densenet121, (3, 224, 224), batch=4),
    )
}
OURS = Network("ThinUNet", thin_unet, (1, *ROI))
EVERY = NETWORKS | {OURS.name: OURS}


def made(name: str, seed: int = 0) -> nn.Module:
    """Return a network in evaluation mode, each seed its own weights, no two tensors of them equal."""
    torch.manual_seed(SEED + seed)
    network = EVERY[name].make()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.rand_like(parameter) * 0.01)
    return network.eval()


def exported(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a network's graph as packages hold it, and return its path."""
    from models.packaging import write_graph

    path = folder / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_graph(made(name, seed), EVERY[name].window, path)
    return path

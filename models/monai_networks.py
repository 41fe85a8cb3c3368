"""Architectures of MONAI that a package may name. It must never load weights from a network, or import MONAI early.

Each takes a closed set of arguments, literals only; models.networks counts parameters before memory is taken.
Axes are (batch, channel, x, y[, z]).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_NUMBER = 4096
LONGEST_LIST = 32
DEEPEST = 4
LONGEST_WORD = 32
ORDER = "channel_order"  # argument of every architecture here: which channel of the network comes when in its answer


@dataclass(frozen=True)
class Allowed:
    """One network of monai.networks.nets and the arguments it may be given."""

    target: str
    required: frozenset[str]
    optional: frozenset[str]


def _allowed(target: str, required: str, optional: str) -> Allowed:
    return Allowed(target, frozenset(required.split()), frozenset(optional.split()))


NETWORKS = {
    "monai-unet": _allowed(
        "UNet",
        "spatial_dims in_channels out_channels channels strides",
        "kernel_size up_kernel_size num_res_units act norm dropout bias adn_ordering",
    ),
    "monai-basicunet": _allowed(
        "BasicUNet", "spatial_dims in_channels out_channels", "features act norm bias dropout upsample"
    ),
    "monai-segresnet": _allowed(
        "SegResNet",
        "in_channels out_channels",
        "spatial_dims init_filters dropout_prob act norm num_groups use_conv_final blocks_down blocks_up upsample_mode",
    ),
    "monai-dynunet": _allowed(
        "DynUNet",
        "spatial_dims in_channels out_channels kernel_size strides upsample_kernel_size",
        "filters dropout norm_name act_name deep_supervision deep_supr_num res_block trans_bias",
    ),
    "monai-densenet121": _allowed(
        "DenseNet121",
        "spatial_dims in_channels out_channels",
        "init_features growth_rate block_config bn_size act norm dropout_prob",
    ),
}


class Reordered(nn.Module):
    """A network whose answer's channels come in another order."""

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.order = tuple(order)

    def forward(self, image: Tensor) -> Tensor:
        """Return the network's answer with channel order[n] at place n."""
        answer: Tensor = self.network(image)
        return torch.cat([answer[:, n : n + 1] for n in self.order], 1)


def builders() -> dict[str, Callable[..., nn.Module]]:
    """Return what builds each architecture from its arguments; these raise ValueError for what is not allowed."""
    return {name: partial(built, name) for name in NETWORKS}


def built(name: str, /, **kwargs: Any) -> nn.Module:
    """Return the untrained network `name`; ValueError says which argument is wrong."""
    allowed = NETWORKS[name]
    order = kwargs.pop(ORDER, None)
    check_kwargs(allowed, kwargs)
    if order is not None and sorted(order) != list(range(kwargs["out_channels"])):
        raise ValueError(f"{ORDER} must hold each of 0 … {kwargs['out_channels'] - 1} once")
    network = made(allowed.target, kwargs)
    return network if order is None else Reordered(network, order)


def made(target: str, kwargs: dict[str, Any]) -> nn.Module:
    """Return monai.networks.nets.`target`; whatever MONAI finds wrong becomes a ValueError of one line."""
    from monai.networks import nets

    try:
        network: nn.Module = getattr(nets, target)(**kwargs)
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"MONAI's {target} does not take this: {first}") from error
    return network


def check_kwargs(allowed: Allowed, kwargs: dict[str, Any]) -> None:
    """Raise ValueError unless all needed arguments are there, no other ones, and each is a modest literal."""
    unknown = sorted(kwargs.keys() - allowed.required - allowed.optional)
    if unknown:
        raise ValueError(f"{unknown[0]} is not one of {', '.join(sorted(allowed.required | allowed.optional))}")
    absent = sorted(allowed.required - kwargs.keys())
    if absent:
        raise ValueError(f"{absent[0]} is needed")
    for key, value in kwargs.items():
        if not modest(value):
            raise ValueError(f"{key} is not a literal of numbers up to {LARGEST_NUMBER}, words and short lists")
    if kwargs.get("spatial_dims", 3) not in (2, 3):
        raise ValueError("spatial_dims must be 2 or 3")


def modest(value: Any, depth: int = 0) -> bool:
    """Return whether `value` is a number, a plain word, or a short list or object of such."""
    if depth > DEEPEST:
        return False
    if isinstance(value, dict):
        return len(value) <= LONGEST_LIST and all(modest(one, depth + 1) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple):
        return len(value) <= LONGEST_LIST and all(modest(one, depth + 1) for one in value)
    if isinstance(value, str):
        return len(value) <= LONGEST_WORD and all(one.isalnum() or one == "_" for one in value)
    if isinstance(value, int | float):
        return abs(value) <= LARGEST_NUMBER
    return value is None

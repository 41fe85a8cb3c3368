"""Only known architectures are built, and bad arguments are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from appliance.errors import PackageRefused
from models.networks import ThinUNet, build, count_parameters
from models.zoo.brain_structures import ARCHITECTURE, CLASSES


def test_the_network_of_brain_structures_keeps_the_grid_and_is_small() -> None:
    network = build(*ARCHITECTURE).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 16, 24, 16)).shape == (1, CLASSES, 16, 24, 16)
    assert count_parameters(network) * 4 < 5e6


THIN = {"inputs": 1, "classes": 2, "channels": [4, 8]}
FOLDS = {"down": [1, 1], "up": [1]}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("thin-unet", {**FOLDS, "channels": [8192, 8192]}, "it would have .* parameters"),
        ("thin-classifier", {"channels": [8192, 8192]}, "it would have .* parameters"),
        ("thin-unet", {**FOLDS, "down": [1_000_000, 1]}, "at most 16 levels"),
        ("thin-classifier", {"channels": [1] * 1000}, "at most 16 levels"),
        ("thin-unet", {**FOLDS, "channels": [-1, 8]}, "negative dimension"),
        ("thin-unet", {**FOLDS, "dimensions": 4}, "does not take"),
    ],
    ids=str,
)
def test_too_large_a_network_is_refused_before_memory_is_taken(name: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(PackageRefused, match=words) as refusal:
        build(name, THIN | change)
    assert "\n" not in str(refusal.value)


def test_counting_first_changes_no_weight() -> None:
    torch.manual_seed(1)
    ours = build("thin-unet", THIN | FOLDS)
    torch.manual_seed(1)
    plain = ThinUNet(**THIN, **FOLDS)
    assert all(torch.equal(one, two) for one, two in zip(ours.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("os.system", {}), ("thin-unet", {"layers": 3}), ("thin-unet", dict(ARCHITECTURE[1], channels=[8, 16, 32]))],
)
def test_what_is_not_known_is_refused(name: str, kwargs: dict[str, object]) -> None:
    if name == "thin-unet" and "channels" in kwargs:
        kwargs = {**kwargs, "up": []}
    with pytest.raises(PackageRefused, match="architecture"):
        build(name, kwargs)

"""Only known architectures are built, and bad arguments are refused."""

from __future__ import annotations

import pytest
import torch

from appliance.errors import PackageRefused
from models.networks import build, count_parameters
from models.zoo.brain_structures import ARCHITECTURE, CLASSES


def test_the_network_of_brain_structures_keeps_the_grid_and_is_small() -> None:
    network = build(*ARCHITECTURE).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 16, 24, 16)).shape == (1, CLASSES, 16, 24, 16)
    assert count_parameters(network) * 4 < 5e6


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("os.system", {}), ("thin-unet", {"layers": 3}), ("thin-unet", dict(ARCHITECTURE[1], channels=[8, 16, 32]))],
)
def test_what_is_not_known_is_refused(name: str, kwargs: dict[str, object]) -> None:
    if name == "thin-unet" and "channels" in kwargs:
        kwargs = {**kwargs, "up": []}
    with pytest.raises(PackageRefused, match="architecture"):
        build(name, kwargs)

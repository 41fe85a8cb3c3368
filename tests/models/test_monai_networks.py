"""Networks of MONAI are built by name from literals; anything else is refused in one line, before memory is taken."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from appliance.errors import PackageRefused
from models.monai_networks import NETWORKS
from models.networks import ARCHITECTURES, build

SMALL = {
    "monai-unet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8, 8], "strides": [2, 2]},
    "monai-basicunet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "features": [4, 4, 4, 4, 4, 4]},
    "monai-segresnet": {"in_channels": 1, "out_channels": 2, "init_filters": 8, "blocks_down": [1, 1],
                        "blocks_up": [1], "act": ["RELU", {"inplace": True}]},
    "monai-dynunet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3, 3],
                      "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8]},
    "monai-densenet121": {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "init_features": 4,
                          "growth_rate": 4, "block_config": [1, 1, 1, 1]},
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_each_is_built_and_answers(name: str) -> None:
    network = build(name, SMALL[name]).eval()
    flat = SMALL[name].get("spatial_dims") == 2
    with torch.no_grad():
        answer = network(torch.zeros(1, 1, 32, 32) if flat else torch.zeros(1, 1, 32, 32, 16))
    assert answer.shape == ((1, 2) if flat else (1, 2, 32, 32, 16))


def test_every_one_is_an_architecture_that_a_package_may_name() -> None:
    assert NETWORKS.keys() <= ARCHITECTURES.keys()
    assert SMALL.keys() == NETWORKS.keys()


def test_channels_come_in_the_order_that_is_asked_for() -> None:
    kwargs = dict(SMALL["monai-unet"], out_channels=3)
    plain, ordered = build("monai-unet", kwargs).eval(), build("monai-unet", {**kwargs, "channel_order": [1, 2, 0]})
    ordered.eval().network.load_state_dict(plain.state_dict())
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(ordered(image), plain(image)[:, [1, 2, 0]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out_channels": None}, "does not take"),
        ({"pretrained": True}, "pretrained is not one of"),
        ({"act": "os.system"}, "act is not a literal"),
        ({"act": "EVIL"}, "MONAI's UNet does not take this"),
        ({"channels": [8] * 33}, "channels is not a literal"),
        ({"channels": [4097, 8, 8]}, "channels is not a literal"),
        ({"channels": [4096, 4096, 4096]}, "it would have"),
        ({"spatial_dims": 4}, "spatial_dims must be"),
        ({"channel_order": [0, 0]}, "channel_order must hold"),
        ({"channel_order": "ab"}, "channel_order must hold"),
        ({"strides": [[[[[[2]]]]]]}, "strides is not a literal"),
    ],
    ids=str,
)
def test_what_is_not_a_modest_literal_is_refused_in_one_line(change: dict[str, object], words: str) -> None:
    with pytest.raises(PackageRefused, match=words) as refusal:
        build("monai-unet", SMALL["monai-unet"] | change)
    assert "\n" not in str(refusal.value)


def test_a_needed_argument_is_named() -> None:
    with pytest.raises(PackageRefused, match="channels is needed"):
        build("monai-unet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "strides": [2]})


def test_a_graph_alone_is_no_network() -> None:
    with pytest.raises(PackageRefused, match="a graph alone"):
        build("onnx", {})


def test_monai_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, models.networks; print([name for name in ('monai',) if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

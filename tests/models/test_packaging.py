"""A network that was just trained becomes a package that loads, passes parity and never overwrites another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from appliance.errors import PackageRefused
from models.engines import Place, choose_engine
from models.networks import build
from models.package import Package
from models.packaging import write_package

TINY = {"inputs": 1, "classes": 8, "channels": [4, 8], "down": [1, 1], "up": [1]}


@pytest.fixture(scope="module")
def written(shipped: Package, tmp_path_factory: pytest.TempPathFactory) -> Package:
    declared = json.loads((shipped.folder / "package.json").read_text())
    declared |= {"version": "0.0.9", "architecture": {"name": "thin-unet", "kwargs": TINY}}
    declared["inference"] |= {"roi": [16, 16, 16]}
    golden = np.random.default_rng(0).random((1, 16, 16, 16)).astype(np.float32)
    folder = tmp_path_factory.mktemp("packaging") / "tiny"
    return write_package(build("thin-unet", TINY), declared, [golden], "# card\n", folder)


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("rung", ["openvino", "onnxruntime", "torch"])
def test_every_engine_takes_any_batch_of_a_written_package(written: Package, rung: str) -> None:
    engine = choose_engine(written, [rung], Place("cpu")).engine
    windows = torch.rand(3, 1, 16, 16, 16)
    together, alone = engine.run(windows), engine.run(windows[2:])
    engine.close()
    np.testing.assert_allclose(together[2:], alone, atol=1e-4)


def test_the_graph_is_one_file_with_opset_18_and_no_path_of_the_machine(written: Package) -> None:
    raw = written.path("model.onnx").read_bytes()
    model = onnx.load_model_from_string(raw)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    assert str(Path(__file__).parents[2]).encode() not in raw


def test_a_version_is_never_written_twice(written: Package) -> None:
    declared = json.loads((written.folder / "package.json").read_text())
    with pytest.raises(PackageRefused, match="choose a new version"):
        write_package(build("thin-unet", TINY), declared, [], "", written.folder)

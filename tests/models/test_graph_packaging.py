"""A package made of an ONNX file alone runs on the graph's engines, says why not on PyTorch's, and passes one gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file, save_file

from appliance.errors import EngineUnavailable, PackageRefused
from models.declaration import Declaration
from models.engines import Place, choose_engine
from models.gate import inspect
from models.graph_packaging import write_graph_package
from models.made_up import golden_image, volumes_of
from models.networks import build
from models.package import Package, load_package, write_manifest
from models.packaging import write_graph
from models.shelf import Shelf
from models.starter import Wanted, starter

TINY = {"inputs": 1, "classes": 2, "channels": [4, 8], "down": [1, 1], "up": [1]}
WINDOW = (16, 16, 16)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user exported."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("graph") / "mine.onnx"
    write_graph(build("thin-unet", TINY).eval(), (1, *WINDOW), path)
    return path


def declaration(**changes: Any) -> dict[str, Any]:
    return starter(Wanted("onnx", "my-spleen", "CT", ("spleen",), roi=WINDOW)) | changes


@pytest.fixture(scope="module")
def written(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    declared = declaration()
    image = golden_image(Declaration.model_validate(declared))
    return write_graph_package(graph, declared, [image], "# card\n", tmp_path_factory.mktemp("made") / "package")


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def test_it_passes_the_gate_and_runs(written: Package) -> None:
    inspect(written)
    volumes = volumes_of(written.manifest)
    reading, loaded = Shelf(["torch-cuda", "openvino"], Place("cpu")).read([volumes], written)
    assert loaded.choice.engine.name == "openvino"
    assert reading.label_maps[0].shape == volumes[0].shape


def test_its_weights_are_the_graphs(written: Package, graph: Path) -> None:
    held = {one.name for one in onnx.load(str(graph)).graph.initializer}
    assert load_file(written.path("weights.safetensors")).keys() == held


def test_the_ladder_says_why_not_on_pytorch(written: Package) -> None:
    choice = choose_engine(written, ["torch", "onnxruntime"], Place("cpu"))
    assert choice.engine.name == "onnxruntime"
    assert choice.skipped == (("torch", "the package is an ONNX graph alone, PyTorch has no network for it"),)
    choice.engine.close()
    with pytest.raises(EngineUnavailable, match="graph alone"):
        choose_engine(written, ["torch"], Place("cpu"))


def test_other_weights_beside_the_graph_are_refused(written: Package, tmp_path: Path) -> None:
    import shutil

    copied = Path(shutil.copytree(written.folder, tmp_path / "copy"))
    weights = load_file(copied / "weights.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + np.ones(1, weights[name].dtype)
    save_file(weights, copied / "weights.safetensors")
    write_manifest(copied)
    with pytest.raises(PackageRefused, match=f"{name} is not what model.onnx holds"):
        inspect(load_package(copied))


def test_a_graph_with_a_fixed_batch_is_refused(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(str(graph))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    declared = declaration()
    image = golden_image(Declaration.model_validate(declared))
    package = write_graph_package(tmp_path / "fixed.onnx", declared, [image], "", tmp_path / "package")
    with pytest.raises(PackageRefused, match="any batch"):
        inspect(package)


def test_what_is_no_graph_leaves_no_package(tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"no graph")
    with pytest.raises(PackageRefused, match="not a valid ONNX graph"):
        write_graph_package(tmp_path / "mine.onnx", declaration(), [], "", tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_another_architecture_is_refused(graph: Path, tmp_path: Path) -> None:
    declared = declaration(architecture={"name": "thin-unet", "kwargs": TINY})
    with pytest.raises(PackageRefused, match='must be "onnx"'):
        write_graph_package(graph, declared, [], "", tmp_path / "package")

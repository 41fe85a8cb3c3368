"""Writing a package: a trained network and its declaration → a folder that `load_package` accepts.

It must never write into a folder that already holds a package: versions do not change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import save_file
from torch import nn

from appliance.errors import PackageRefused
from models.declaration import Declaration
from models.package import MANIFEST, Package, load_package, write_manifest
from models.parity import GOLDEN, STRIDE, labels_of
from models.transforms import Floats, Shape

OPSET = 18


def write_package(network: nn.Module, declared: Mapping[str, Any], golden: Floats, card: str, folder: Path) -> Package:
    """Write and return the package of a trained `network`.

    `declared`: the content of package.json. `golden`: one window (x, y, z) of about 0…1, a synthetic image.
    """
    if (folder / MANIFEST).exists():
        raise PackageRefused(f"{folder} holds a package already; choose a new version")
    declaration = Declaration.model_validate_json(json.dumps(declared))
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    network = network.cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    (folder / "package.json").write_text(json.dumps(declared, indent=2, ensure_ascii=False) + "\n")
    (folder / "card.md").write_text(card)
    weights = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    (folder / "weights.safetensors").chmod(0o644)
    write_graph(network, declaration.inference.roi, folder / "model.onnx")
    write_golden(network, golden, folder / GOLDEN)
    write_manifest(folder)
    return load_package(folder)


def write_graph(network: nn.Module, roi: Shape, path: Path) -> None:
    """Write the network as one ONNX file: weights inside, any batch size, windows of `roi`."""
    sample = torch.zeros(2, 1, *roi)  # a batch of one would be taken as fixed
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.onnx.export(
        network,
        (sample,),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=({0: batch},),
        input_names=["image"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.save(str(path), external_data=False)
    strip_paths(path)


def strip_paths(path: Path) -> None:
    """Remove what the exporter notes about its machine (stack traces with paths) from a graph."""
    model = onnx.load(str(path))
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
    path.write_bytes(model.SerializeToString(deterministic=True))


@torch.inference_mode()
def write_golden(network: nn.Module, image: Floats, path: Path) -> None:
    """Write the golden case: `image` in 256 steps and what the network makes of exactly that."""
    stored = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    window = torch.from_numpy(stored.astype(np.float32) / np.float32(255))[None, None]
    logits = network(window)[0].numpy()
    thinned = np.ascontiguousarray(logits[:, ::STRIDE, ::STRIDE, ::STRIDE])
    np.savez_compressed(path, input=stored, logits=thinned, labels=labels_of(logits))

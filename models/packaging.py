"""Writing a package: a trained network and its declaration → a folder that `load_package` accepts.

It must never write into a folder that already holds a package: versions do not change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from appliance.errors import PackageRefused
from models.declaration import Declaration
from models.outputs import Classification, Regression
from models.package import MANIFEST, Package, load_package, write_manifest
from models.parity import FOLDER, STRIDE, from_bytes, labels_of
from models.transforms import Floats

OPSET = 18
MOST_IN_A_BATCH = 64


def write_package(
    network: nn.Module, declared: Mapping[str, Any], golden: Sequence[Floats], card: str, folder: Path
) -> Package:
    """Write and return the package of a trained `network`.

    `declared`: the content of package.json. `golden`: inputs of the network (channels, axes…), synthetic images.
    """
    declaration = begin(declared, card, folder)
    network = network.cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    weights = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    (folder / "weights.safetensors").chmod(0o644)
    write_graph(network, window_shape(declaration), folder / "model.onnx")
    for number, image in enumerate(golden, start=1):
        write_golden(network, declaration, image, folder / FOLDER / f"case-{number}.npz")
    write_manifest(folder)
    return load_package(folder)


def begin(declared: Mapping[str, Any], card: str, folder: Path) -> Declaration:
    """Write package.json and card.md into a new folder; PackageRefused for what package.json may not say."""
    if (folder / MANIFEST).exists():
        raise PackageRefused(f"{folder} holds a package already; choose a new version")
    try:
        declaration = Declaration.model_validate_json(json.dumps(declared))
    except ValidationError as error:
        fault = error.errors()[0]
        raise PackageRefused(f"package.json: {'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}") from error
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps(declared, indent=2, ensure_ascii=False) + "\n")
    (folder / "card.md").write_text(card)
    return declaration


def window_shape(declared: Declaration) -> tuple[int, ...]:
    """Return the shape (channels, axes…) of one input of the network."""
    return (len(declared.inputs), *declared.inference.roi)


def write_graph(network: nn.Module, window: Sequence[int], path: Path) -> None:
    """Write the network as one ONNX file: weights inside, any batch size, windows of shape (channels, axes…)."""
    sample = torch.zeros(2, *window)  # a batch of one would be taken as fixed
    batch = torch.export.Dim("batch", min=1, max=MOST_IN_A_BATCH)
    program = torch.onnx.export(
        network,
        (sample,),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=({0: batch},),
        input_names=["image"],
        output_names=["answer"],
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
def write_golden(network: Callable[[Tensor], Tensor], declared: Declaration, image: Floats, path: Path) -> None:
    """Write a golden case: `image` (channels, axes…) in 256 steps and what the network makes of exactly that."""
    axes = tuple(range(1, image.ndim))
    low, high = image.min(axes).astype(np.float32), image.max(axes).astype(np.float32)
    width = np.where(high > low, high - low, 1).reshape(-1, *(1,) * len(axes))
    stored = np.round((image - low.reshape(width.shape)) / width * 255).astype(np.uint8)
    answer = network(torch.from_numpy(from_bytes(stored, low, high))[None])[0].numpy()
    arrays = {"input": stored, "low": low, "high": high}
    if isinstance(declared.outputs, Classification | Regression):
        np.savez_compressed(path, **arrays, output=answer)
        return
    thinned = answer[(slice(None), *(slice(None, None, STRIDE),) * len(axes))]
    labels = labels_of(answer, declared.outputs)
    np.savez_compressed(path, **arrays, output=np.ascontiguousarray(thinned), labels=labels)

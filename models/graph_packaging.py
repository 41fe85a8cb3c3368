"""Packages that are an ONNX graph and nothing else: no architecture of ours, so no PyTorch and no training.

Their weights.safetensors holds the graph's own initialisers, byte for byte, so that every package has its weights in
one format; the golden cases are answered by ONNX Runtime when the package is made. It must never follow a path that a
graph names: graphs pass models.engines.graph first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from appliance.errors import PackageRefused
from models.engines.graph import checked_graph
from models.networks import GRAPH_ONLY
from models.package import Package, load_package, write_manifest
from models.packaging import begin, strip_paths, write_golden
from models.parity import FOLDER
from models.transforms import Floats

WEIGHTS = "weights.safetensors"
KEPT = frozenset({"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"})
Array = npt.NDArray[Any]


def write_graph_package(
    graph: Path, declared: Mapping[str, Any], golden: Sequence[Floats], card: str, folder: Path
) -> Package:
    """Write and return the package of the ONNX file `graph`; PackageRefused says what is wrong with it.

    `declared`: the content of package.json, whose architecture must be "onnx". `golden`: inputs (channels, axes…).
    """
    from models.engines.onnxruntime import OnnxRuntimeEngine  # the gate needs this module, but no engine

    checked_graph(graph)
    declaration = begin(declared, card, folder)
    if declaration.architecture.name != GRAPH_ONLY:
        raise PackageRefused(f'package.json: architecture.name must be "{GRAPH_ONLY}" for a package made of a graph')
    (folder / "model.onnx").write_bytes(graph.read_bytes())
    strip_paths(folder / "model.onnx")
    raw = checked_graph(folder / "model.onnx")
    save_file(initialisers(raw), folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)
    engine = OnnxRuntimeEngine(raw)
    for number, image in enumerate(golden, start=1):
        write_golden(engine.run, declaration, image, folder / FOLDER / f"case-{number}.npz")
    engine.close()
    write_manifest(folder)
    return load_package(folder)


def initialisers(raw: bytes) -> dict[str, Array]:
    """Return the constant tensors of a graph by name; PackageRefused if there is none, or of a type without a home."""
    found: dict[str, Array] = {}
    for tensor in onnx.load_model_from_string(raw).graph.initializer:
        values = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor))
        if values.dtype.name not in KEPT:
            raise PackageRefused(f"model.onnx: weights of type {values.dtype} cannot be kept in {WEIGHTS}")
        found[tensor.name] = values
    if not found:
        raise PackageRefused("model.onnx: holds no weights; they must be inside the file, as initialisers")
    return found


def check_graph_weights(package: Package) -> None:
    """Raise PackageRefused unless weights.safetensors holds exactly what the graph computes with."""
    wanted = initialisers(checked_graph(package.path("model.onnx")))
    try:
        found = load_file(package.path(WEIGHTS))
    except SafetensorError as error:
        raise PackageRefused(f"{WEIGHTS}: not a safetensors file") from error
    for name in sorted(wanted.keys() | found.keys()):
        one, other = wanted.get(name), found.get(name)
        if one is None or other is None or one.dtype != other.dtype or not np.array_equal(one, other):
            raise PackageRefused(f"{WEIGHTS}: {name} is not what model.onnx holds")

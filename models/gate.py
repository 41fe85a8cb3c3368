"""What a package must pass before it is installed: its graph and weights, looked into with suspicion.

The signature and every digest were found right before this. It must never run the network: that is the engine's
process, and the golden cases judge it there (parity.py).
"""

from __future__ import annotations

import onnx
from safetensors import SafetensorError, safe_open

from appliance.errors import PackageRefused
from models.declaration import Declaration
from models.engines.graph import checked_graph
from models.graph_packaging import check_graph_weights
from models.networks import GRAPH_ONLY, build
from models.outputs import channels_needed
from models.package import Package
from models.packaging import window_shape
from models.parity import GoldenCase, golden_cases

WEIGHTS = "weights.safetensors"


def inspect(package: Package) -> None:
    """Raise PackageRefused unless graph, weights and golden cases are what package.json says."""
    check_graph_shape(package, checked_graph(package.path("model.onnx")))
    check_weights(package)
    check_card(package)
    for golden in golden_cases(package):
        check_golden(golden, package.manifest)


def check_card(package: Package) -> None:
    """Raise PackageRefused unless card.md is text that can be shown."""
    try:
        package.path("card.md").read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PackageRefused(f"card.md: is not UTF-8 at byte {error.start}; save it as UTF-8 and sign anew") from error


def check_golden(golden: GoldenCase, declared: Declaration) -> None:
    """Raise PackageRefused unless a golden case has the declared window and an answer of as many channels as needed."""
    wanted, channels = window_shape(declared), channels_needed(declared.outputs)
    if golden.image.shape != wanted:
        raise PackageRefused(f"golden/{golden.name}.npz: its input has shape {golden.image.shape}, not {wanted}")
    if len(golden.output) != channels:
        raise PackageRefused(
            f"golden/{golden.name}.npz: answers with {len(golden.output)} channels, its outputs need {channels}"
        )


def check_graph_shape(package: Package, raw: bytes) -> None:
    """Raise PackageRefused unless the graph takes one input of the declared shape, any batch, and answers once."""
    graph = onnx.load_model_from_string(raw).graph
    constants = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise PackageRefused(
            f"model.onnx: has {len(inputs)} inputs and {len(graph.output)} outputs, one of each is needed"
        )
    tensor = inputs[0].type.tensor_type
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim)
    wanted = (None, *window_shape(package.manifest))
    if tensor.elem_type != onnx.TensorProto.FLOAT or shape != wanted:
        raise PackageRefused(f"model.onnx: takes {shape}, package.json says float32 {wanted} with any batch")


def check_weights(package: Package) -> None:
    """Raise PackageRefused unless the weights have the names and shapes of the architecture."""
    if package.manifest.architecture.name == GRAPH_ONLY:
        check_graph_weights(package)
        return
    network = build(package.manifest.architecture.name, package.manifest.architecture.kwargs)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    try:
        with safe_open(package.path(WEIGHTS), framework="np") as stored:
            found = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise PackageRefused(f"{WEIGHTS}: not a safetensors file") from error
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise PackageRefused(f"{WEIGHTS}: {wrong[0]} does not fit the architecture in package.json")

"""The confined process of an import: a bundle's weights → package files, and what the engines make of them.

Run as `python -m models.bundle.conversion`: an order (JSON) on standard input, the weights as an open descriptor, the
answer in answer.json of its own folder. It must never read another file of the bundle, and the weights only as
tensors (weights_only): a pickle that holds anything else ends here.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.errors import CurieError, EngineUnavailable, PackageRefused
from models.sandbox import Limits, confine, watched

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.package import Package

ANSWER = "answer.json"
PACKAGE = "package"
WRAPPINGS = ("state_dict", "model", "network", "model_state_dict")
RUNGS = ("openvino", "onnxruntime", "torch")


def main() -> None:
    """Be the keeper of a child that confines itself, converts and answers; end as it ended."""
    order = json.load(sys.stdin)
    sys.exit(watched(lambda: answer_to(order), order["limits"]["wall_s"]))


def answer_to(order: Mapping[str, Any]) -> None:
    """Be the child: confine this process, convert, answer."""
    folder = Path(order["folder"])
    answer: dict[str, Any] = {"held": confine(Limits(**order["limits"]), folder)}
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    warnings.simplefilter("ignore")
    try:
        answer |= converted(order, folder)
    except CurieError as error:
        answer["refused"] = str(error)
    except MemoryError:
        answer["refused"] = "the network needs more memory than an import may use"
    except Exception as error:  # noqa: BLE001 - the edge of a process
        first = next(iter(str(error).splitlines()), "")[:200]
        answer["refused"] = f"the network cannot be converted ({type(error).__name__}: {first})"
    (folder / ANSWER).write_text(json.dumps(finite(answer), allow_nan=False))


def finite(value: Any) -> Any:
    """Return figures as JSON can say them: null where one is not finite."""
    if isinstance(value, dict):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def converted(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write the package and return how its engines agree, and how it compares with MONAI's own pipeline."""
    import torch

    from models.bundle.peer import compared
    from models.declaration import Declaration
    from models.made_up import golden_image
    from models.networks import build
    from models.packaging import write_package

    torch.set_num_threads(order["threads"])
    declared = Declaration.model_validate_json(json.dumps(order["declared"]))
    network = build(declared.architecture.name, declared.architecture.kwargs)
    load_weights(network, weights_of(order["weights"]))
    package = write_package(network, order["declared"], [golden_image(declared)], order["card"], folder / PACKAGE)
    return {"engines": engines_agree(package), "monai": compared(package, network, order["monai"])}


def weights_of(descriptor: int) -> dict[str, Tensor]:
    """Return the tensors of a state dict; PackageRefused for a file that holds anything else."""
    import torch

    with os.fdopen(descriptor, "rb") as file:
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise PackageRefused(
                f"models/model.pt: cannot be read as tensors alone, and nothing else is ever unpickled "
                f"({type(error).__name__}); save network.state_dict()"
            ) from error
    for name in WRAPPINGS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not found or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise PackageRefused("models/model.pt: is no state dict of tensors; save network.state_dict() alone")
    return {str(name): tensor for name, tensor in found.items()}


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a network; PackageRefused names the first that does not fit."""
    from models.monai_networks import Reordered

    inner = network.network if isinstance(network, Reordered) else network
    wanted = {name: tuple(tensor.shape) for name, tensor in inner.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        is_, should = (str(list(one[wrong[0]])) if wrong[0] in one else "absent" for one in (found, wanted))
        raise PackageRefused(f"models/model.pt: {wrong[0]} is {is_}, the network of network_def has {should}")
    inner.load_state_dict(dict(weights))


def engines_agree(package: Package) -> list[dict[str, Any]]:
    """Return, for each engine of a CPU, how it agrees with the golden case, or why it does not run."""
    from models.engines import Place, candidates, judged
    from models.parity import as_record

    found: list[dict[str, Any]] = []
    for rung in RUNGS:
        try:
            for engine in candidates(package, rung, Place("cpu")):
                agreed, reason = judged(engine, package)
                precision = engine.precision
                engine.close()
                found.append({"rung": rung, "precision": precision, "cases": as_record(agreed), "reason": reason})
        except EngineUnavailable as error:
            found.append({"rung": rung, "precision": "", "cases": [], "reason": str(error)})
    return found


if __name__ == "__main__":
    main()

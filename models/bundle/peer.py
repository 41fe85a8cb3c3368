"""A package against MONAI's own pipeline, on a made-up volume. MONAI's steps come from a table, never from a config.

The made-up images are smooth, so that a shift of half a voxel stays small. They mean nothing: the figures say whether
both ways compute the same, not whether the network is any good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from appliance.volume import Affine, Volume
from models.bundle.preprocessing import STEPS, nothing
from models.deciding import read
from models.declaration import Declaration
from models.engines.torch import TorchEngine
from models.made_up import volumes_of
from models.operations import Orient, Resample, Slices
from models.outputs import Classification, Segmentation
from models.package import Package
from models.parity import dice_of
from models.transforms import turn_towards

PIPELINE = {name for name, step in STEPS.items() if step is not nothing}


def compared(package: Package, network: nn.Module, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a package's result on a made-up volume differs from what MONAI's own steps make of it.

    `plan`: the bundle's own steps as literals: "preprocessing" and "inferer" by name and arguments, and whether its
    way back is by the "nearest".
    """
    declared = package.manifest
    volumes = volumes_of(declared)
    engine = TorchEngine(network, "torch", "cpu")
    ours = read([volumes], package, engine)
    with torch.inference_mode():
        theirs = monai_answer(volumes, network, declared, plan)
    if isinstance(declared.outputs, Classification):
        probabilities = torch.softmax(theirs, 0).numpy()
        largest = float(np.abs(probabilities - np.array(ours.probabilities)).max())
        return {"probability": largest}
    labels = monai_labels(theirs, declared.outputs)  # type: ignore[arg-type]
    return agreement(labels, ours.label_maps[0], len(declared.outputs.segments))  # type: ignore[union-attr]


def agreement(theirs: npt.NDArray[np.uint8], ours: npt.NDArray[np.uint8], segments: int) -> dict[str, Any]:
    """Return Dice by segment and the share of voxels that two label maps label otherwise."""
    numbers = [n for n in range(1, segments + 1) if (theirs == n).any() or (ours == n).any()]
    return {
        "voxels": int(theirs.size),
        "flips": float((theirs != ours).mean()),
        "dice": {str(n): round(dice_of(theirs == n, ours == n), 4) for n in numbers},
    }


def monai_answer(
    volumes: Sequence[Volume], network: nn.Module, declared: Declaration, plan: Mapping[str, Any]
) -> Tensor:
    """Return MONAI's answer: probabilities (channels, k, j, i) on the source grid, or a classifier's logits."""
    inferers: Any = import_module("monai.inferers")
    transforms: Any = import_module("monai.transforms")
    tensor: Any = import_module("monai.data").MetaTensor
    voxels = torch.from_numpy(np.stack([one.voxels for one in volumes]))
    steps = [(name, kwargs) for name, kwargs in plan["preprocessing"] if name in PIPELINE]
    flat = isinstance(declared.inference, Slices)
    turn = turn_towards(volumes[0].affine, declared.preprocess[0].axcodes)  # type: ignore[union-attr]
    if flat:  # files of a 2-D bundle have no orientation: they lie as the network sees them
        image = tensor(turn.apply(voxels)[..., 0])
    else:
        image = tensor(voxels.permute(0, 3, 2, 1), affine=to_ras(volumes[0].affine))
        steps = [*said_steps(declared, steps), *steps]
    chain = transforms.Compose([getattr(transforms, name)(**tuples(kwargs)) for name, kwargs in steps])
    sample = chain({"image": image})
    name, kwargs = plan["inferer"]
    inferer = inferers.SlidingWindowInferer(**kwargs) if name == "SlidingWindowInferer" else inferers.SimpleInferer()
    answer: Tensor = inferer(sample["image"][None].as_tensor(), network)[0]
    if isinstance(declared.outputs, Classification):
        return answer
    sigmoid = declared.outputs.activation == "sigmoid"  # type: ignore[union-attr]
    probabilities = torch.sigmoid(answer) if sigmoid else torch.softmax(answer, 0)
    sample["pred"] = tensor(probabilities, affine=sample["image"].affine)
    back = transforms.Invertd(keys="pred", transform=chain, orig_keys="image", nearest_interp=plan["nearest"])
    straight: Tensor = back(sample)["pred"].as_tensor()
    return turn.undo(straight[..., None]) if flat else straight.permute(0, 3, 2, 1)


def said_steps(declared: Declaration, steps: Sequence[tuple[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return MONAI's steps for what a person said where the bundle is silent: axes and spacing."""
    there = {name for name, _ in steps}
    found: list[tuple[str, dict[str, Any]]] = []
    for step in declared.preprocess:
        if isinstance(step, Orient) and "Orientationd" not in there:
            found.append(("Orientationd", {"keys": "image", "axcodes": step.axcodes}))
        if isinstance(step, Resample) and "Spacingd" not in there:
            found.append(("Spacingd", {"keys": "image", "pixdim": step.spacing_mm, "mode": "bilinear"}))
    return found


def tuples(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with JSON's lists as tuples, which MONAI's transforms expect."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}


def to_ras(affine: Affine) -> Tensor:
    """Return an affine of (k, j, i) to LPS mm as one of (i, j, k) to RAS mm, which MONAI works in."""
    return torch.from_numpy(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine[:, [2, 1, 0, 3]])


def monai_labels(probabilities: Tensor, outputs: Segmentation) -> npt.NDArray[np.uint8]:
    """Return the label map of probabilities (channels, k, j, i), regions laid over each other as a package does."""
    if outputs.activation == "softmax":
        return probabilities.argmax(0).numpy().astype(np.uint8)
    labels = np.zeros(probabilities.shape[1:], np.uint8)
    for number, one in enumerate(probabilities, start=1):
        labels[one.numpy() > outputs.threshold] = number
    return labels

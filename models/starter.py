"""A folder from which a person makes a package: package.json, card.md and make.py, all three theirs to change.

It must never invent a code: segments and classes are in the table of models/bundle/names.py, or a person codes them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import onnx

from appliance.errors import Missing, PackageRefused, SettingsError
from models.bundle import names
from models.bundle.declaring import Said, segment, told_code
from models.declaration import Declaration
from models.engines.graph import checked_graph
from models.networks import GRAPH_ONLY
from models.package import parse

Origin = Literal["torch", "onnx"]
ROI, SLICE = (96, 96, 96), (224, 224)
# values as networks are usually trained with; a person puts what theirs was trained with
VALUES: Mapping[str, list[dict[str, Any]]] = {
    "CT": [{"op": "scale_range", "a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0, "clip": True}],
    "MR": [{"op": "zscore", "nonzero": True}],
}
OTHER_VALUES = [{"op": "clip_percentile", "lower": 0.5, "upper": 99.5}, {"op": "scale", "lowest": 0.0, "highest": 1.0}]
UNET = {"spatial_dims": 3, "channels": [16, 32, 64, 128, 256], "strides": [2, 2, 2, 2], "num_res_units": 2}
MAKERS = Path(__file__).parent / "starting"
GRAPH, WEIGHTS = "model.onnx", "weights.safetensors"


@dataclass(frozen=True)
class Wanted:
    """What a package is to be. One of `segments` and `classes` is given."""

    origin: Origin
    id: str
    modality: str
    segments: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    roi: tuple[int, ...] = ()  # of the network's window: (x, y, z), or (x, y) of a network over slices
    spacing_mm: tuple[float, ...] = ()  # to which images are resampled; () keeps theirs
    channels: int = 1
    codes: Mapping[str, Any] = field(default_factory=dict)


def starter(wanted: Wanted) -> dict[str, Any]:
    """Return the content of package.json; SettingsError says what has to be said first."""
    if bool(wanted.segments) == bool(wanted.classes):
        raise SettingsError("--segments or --classes: name the structures it shows, or the classes it tells apart")
    roi = wanted.roi or (SLICE if wanted.classes else ROI)
    if len(roi) not in (2, 3):
        raise SettingsError(f"--roi: {roi} must be two or three numbers, the window of the network")
    if wanted.spacing_mm and len(wanted.spacing_mm) != 3:
        raise SettingsError("--spacing: three numbers in mm")
    sop_classes = names.STORAGE.get(wanted.modality)
    if not sop_classes:
        raise SettingsError(f"--modality: one of {', '.join(names.STORAGE)}")
    declared = {
        "schema_version": 1,
        "id": wanted.id,
        "version": "0.1.0",
        "title": f"{wanted.id.replace('-', ' ')[:26].strip()}, not clinical",
        "pathway": wanted.id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": {"parent": None, "round": None, "sites": None},
        "licence": "not stated",
        "publisher": "not stated",
        "architecture": architecture(wanted, roi),
        "inputs": inputs(wanted, sop_classes, len(roi)),
        "preprocess": preprocess(wanted, roi),
        "inference": inference(wanted, roi),
        "outputs": outputs(wanted),
        "postprocess": [] if wanted.classes else [{"op": "to_source_grid", "method": "linear_logits"}],
        "precision": {"allowed": ["f32"]},
        "resources": {"memory_mb": 4000, "timeout_s": 900},
        "report": {"template": "TID1500", "key_slice": "largest_area"},
        "intended_use": "Say here what it is for, and for whom.",
        "limits": "Say here what it was never tried on. Not validated.",
        "not_for_clinical_use": True,
    }
    parse(Declaration, json.dumps(declared).encode(), "package.json")
    return declared


def architecture(wanted: Wanted, roi: Sequence[int]) -> dict[str, Any]:
    """Return the network: the graph's own, or one of MONAI's to begin with."""
    if wanted.origin == "onnx":
        return {"name": GRAPH_ONLY, "kwargs": {}}
    answers = len(wanted.classes) or len(wanted.segments) + 1
    kwargs = {"in_channels": wanted.channels, "out_channels": answers}
    if wanted.classes:
        return {"name": "monai-densenet121", "kwargs": {"spatial_dims": len(roi), **kwargs}}
    return {"name": "monai-unet", "kwargs": {**UNET, "spatial_dims": len(roi), **kwargs}}


def inputs(wanted: Wanted, sop_classes: Sequence[str], dimensions: int) -> list[dict[str, Any]]:
    """Return one series for each channel."""
    need = {
        "modality": wanted.modality,
        "sop_class_uids": list(sop_classes),
        "min_slices": 8 if dimensions == 3 else 1,
        "exclude_image_types": ["LOCALIZER"],
        "prefer": [],
    }
    called = ["image"] if wanted.channels == 1 else [f"image-{n + 1}" for n in range(wanted.channels)]
    return [{"name": name, "requirement": need} for name in called]


def preprocess(wanted: Wanted, roi: Sequence[int]) -> list[dict[str, Any]]:
    """Return the steps before the network."""
    steps: list[dict[str, Any]] = [{"op": "orient", "axcodes": "RAS" if len(roi) == 3 else "LPS"}]
    if wanted.classes:
        steps.append({"op": "resize", "size": [*roi, None][:3]})
    elif wanted.spacing_mm:
        steps.append({"op": "resample", "spacing_mm": list(wanted.spacing_mm)})
    return [*steps, *VALUES.get(wanted.modality, OTHER_VALUES)]


def inference(wanted: Wanted, roi: Sequence[int]) -> dict[str, Any]:
    """Return how the network is run."""
    if len(roi) == 2:
        return {"mode": "slices", "roi": list(roi), "batch": 8}
    if wanted.classes:
        return {"mode": "whole", "roi": list(roi)}
    return {"mode": "sliding_window", "roi": list(roi), "overlap": 0.25, "blend": "gaussian", "batch": 1}


def outputs(wanted: Wanted) -> dict[str, Any]:
    """Return what the answer means, coded by the table or by a person."""
    said = Said(codes=wanted.codes)
    if wanted.segments:
        entries = [segment(said, name, n, covered=False) for n, name in enumerate(wanted.segments, start=1)]
        return {"kind": "segmentation", "activation": "softmax", "segments": entries}
    coded = [{"name": name, "code": told_code(said, name)} for name in wanted.classes]
    return {"kind": "classification", "classes": coded, "positive": len(coded) - 1, "threshold": 0.5}


def graph_says(graph: Path) -> tuple[int, tuple[int, ...], int]:
    """Return channels, window and answers of an ONNX file; PackageRefused where it says none, or takes no batch."""
    if not graph.is_file():
        raise Missing(f"there is no file {graph}; --graph names the ONNX file")
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(checked_graph(graph)))
    constants = {one.name for one in model.graph.initializer}
    shapes = [dimensions(one) for one in model.graph.input if one.name not in constants]
    answers = [dimensions(one) for one in model.graph.output]
    if len(shapes) != 1 or len(answers) != 1:
        raise PackageRefused(
            f"{graph.name}: has {len(shapes)} inputs and {len(answers)} outputs, one of each is needed"
        )
    ((batch, *window), (_, *answer)) = shapes[0], answers[0]
    if batch is not None:
        raise PackageRefused(f"{graph.name}: takes a batch of {batch} only; export it with any batch (dynamic_shapes)")
    if len(window) not in (3, 4) or None in window or not answer or answer[0] is None:
        raise PackageRefused(
            f"{graph.name}: must take (batch, channels, x, y[, z]) with fixed channels and axes, and answer channels"
        )
    return int(window[0] or 0), tuple(int(one or 0) for one in window[1:]), int(answer[0])


def dimensions(value: onnx.ValueInfoProto) -> list[int | None]:
    """Return the length of each axis, None where it is free."""
    return [axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim]


def slug(folder: Path) -> str:
    """Return a package's name from a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")


def write_starter(folder: Path, wanted: Wanted, graph: Path | None = None) -> list[str]:
    """Write package.json, card.md and make.py (and the graph) into a new folder; return what to do next."""
    if folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"{folder} is there already and not empty; name a folder that is not")
    declared = starter(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps(declared, indent=2, ensure_ascii=False) + "\n")
    (folder / "card.md").write_text(CARD.format(id=wanted.id))
    shutil.copyfile(MAKERS / f"make_from_{wanted.origin}.py", folder / "make.py")
    if graph is not None:
        shutil.copyfile(graph, folder / GRAPH)
    first = [] if graph is not None else [f"put the weights there: {folder / WEIGHTS} (safetensors)"]
    return [
        *first,
        f"edit {folder / 'package.json'} until preprocess and inputs are those the network was trained with",
        f"edit {folder / 'card.md'}: what it learned from, figures, limits",
        f"python {folder / 'make.py'}",
        f"curie models sign {folder / 'package'}",
        f"curie models install {folder / 'package'}",
    ]


CARD = """# {id} 0.1.0

**Not for clinical use.** Say in one sentence what it is for.

## What it is
The network, its size, the resolution it works at.

## What it learned from
Images, how many, from where, with which licence; what was held back.

## Figures
On which images, by whom, with which spread. A figure that nobody measured does not belong here.

## Limits
What it was never tried on, and what is known to go wrong.
"""

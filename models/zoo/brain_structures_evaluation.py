"""How good is `brain-structures`? Against tissue maps of the MNI152 template and against other networks.

The measure on the template: Dice of white matter (class 2) and grey matter (classes 1, 5, 6) against its own
probability maps over one half, at 1 mm, without the voxels that brainchop calls cerebellum or brain stem.
This module must never change a package.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import cc3d
import numpy as np

from appliance.volume import Volume
from models.deciding import read
from models.engines import Engine, Place, choose_engine
from models.package import load_package
from models.parity import Mask, dice_of
from models.reading import Labels
from models.zoo.yardsticks import (
    BRAINCHOP_CLASSES,
    NOT_CEREBRUM,
    brainchop_labels,
    deepbet_mask,
    read_nifti,
)

T1, GM, WM = (f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm"))
GREY, WHITE = (1, 5, 6), (2,)
NAMES = ("cortex", "white", "csf", "cerebellum", "deep grey", "hippocampus+amygdala", "brain stem")


def evaluate(package_folder: Path, mni: Path, head: Path | None, models: Path, cache: Path) -> dict[str, object]:
    """Return all figures of a package: on the template, and on a NIfTI `head` where one is given.

    `models` holds brainchop/ and deepbet/; their answers are kept in `cache`.
    """
    package = load_package(package_folder)
    engine = choose_engine(package, ["openvino", "onnxruntime", "torch"], Place("cpu")).engine
    figures: dict[str, object] = {"package": f"{package.id}@{package.version}", "engine": engine.name}
    figures["mni152"] = template_figures(package_folder, engine, mni, models, cache)
    if head is not None:
        figures["head"] = head_figures(package_folder, engine, head, models, cache)
    return figures


def template_figures(folder: Path, engine: Engine, mni: Path, models: Path, cache: Path) -> dict[str, float]:
    """Return Dice of white and grey matter on the MNI152 template, ours and brainchop's."""
    template = read_nifti(mni / T1)
    labels, seconds = timed_labels(folder, engine, template)
    other = kept(cache / "mni_brainchop.npy", template, models)
    inside = ~np.isin(other, NOT_CEREBRUM)
    figures = {
        "cpu_s": round(seconds, 2),
        "islands": float(islands(labels, np.asarray(template.voxels, np.float32) > 0)),
    }
    for name, classes, path in (("white", WHITE, WM), ("grey", GREY, GM)):
        voxels = read_nifti(mni / path).voxels
        truth = (voxels > 0.5 * voxels.max()) & inside
        figures[name] = round(dice_of(np.isin(labels, classes) & inside, truth), 4)
        theirs = [number for number, one in BRAINCHOP_CLASSES.items() if one in classes and number != 17]
        figures[f"{name}_brainchop"] = round(dice_of(np.isin(other, theirs) & inside, truth), 4)
    return figures


def islands(labels: Labels, head: Mask) -> int:
    """Return how many connected parts of the label map lie wholly outside `head`."""
    parts, count = cc3d.connected_components(labels > 0, connectivity=26, return_N=True)
    touching = np.unique(parts[head])
    return int(count - (touching > 0).sum())


def head_figures(folder: Path, engine: Engine, path: Path, models: Path, cache: Path) -> dict[str, float]:
    """Return Dice against brainchop's structures and deepbet's mask on one head, where no truth is known."""
    head = read_nifti(path)
    labels, seconds = timed_labels(folder, engine, head)
    theirs = np.zeros_like(labels)
    brainchop = kept(cache / f"{path.name}_brainchop.npy", head, models)
    for number, ours in BRAINCHOP_CLASSES.items():
        theirs[brainchop == number] = ours
    figures = {"cpu_s": round(seconds, 2)}
    for number, name in enumerate(NAMES, start=1):
        figures[f"{name} vs brainchop"] = round(dice_of(labels == number, theirs == number), 4)
        figures[f"{name} ml"] = round(float((labels == number).sum()) * head.voxel_ml, 1)
    mask = kept(cache / f"{path.name}_deepbet.npy", head, models)
    figures["brain vs deepbet"] = round(dice_of(labels > 0, mask > 0), 4)
    return figures


def kept(path: Path, volume: Volume, models: Path) -> Labels:
    """Return the answer of the network that `path` names, computed once and kept there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        if "deepbet" in path.name:
            np.save(path, deepbet_mask(volume, models / "deepbet").astype(np.uint8))
        else:
            np.save(path, brainchop_labels(volume, models / "brainchop"))
    answer: Labels = np.load(path)
    return answer


def timed_labels(folder: Path, engine: Engine, volume: Volume) -> tuple[Labels, float]:
    """Return the label map and the CPU seconds it took."""
    began = time.process_time()
    labels = read([[volume]], load_package(folder), engine).label_maps[0]
    return labels, time.process_time() - began


def as_text(figures: dict[str, object]) -> str:
    """Return the figures as indented JSON."""
    return json.dumps(figures, indent=2)

"""The recipe of `brain-structures`: eight classes of a head in MR of any contrast, learned from label maps alone.

    python -m models.zoo.brain_structures train --labels DIR --minutes 55 --out DIR

It must never see a patient's image while it trains: every image is drawn from a label map.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from models.networks import build, count_parameters
from models.synthesis import Strengths, sample
from models.training import Budget, Draw, Training
from models.zoo.brain_structures_labels import label_files, read_labels, read_ras, tissues
from models.zoo.brain_structures_package import CARD, INTENDED_USE, LIMITS, declaration

if TYPE_CHECKING:
    from models.package import Package

CLASSES = 8
ARCHITECTURE: tuple[str, dict[str, Any]] = (
    "thin-unet",
    {"inputs": 1, "classes": CLASSES, "channels": [12, 24, 48, 96], "down": [1, 2, 2, 3], "up": [1, 2, 2]},
)
ROI = (72, 88, 72)  # voxels of 2 mm along right, anterior, superior
CLASS_WEIGHTS = (0.6, 1.0, 1.0, 1.2, 1.5, 3.0, 4.0, 3.0)  # small structures count more in cross-entropy
TRAINING_MAPS = 16  # the rest validates

# how the golden case looks: a whole, upright head in a clear image
PLAIN = Strengths(
    stripped=0.0, reach_voxels=2.0, rotation_deg=4.0, scaling=0.05, noise=0.02, blur_voxels=(0.4, 0.5), thick=0.0
)


def best_device() -> str:
    """Return "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def drawer(maps: list[Tensor], strengths: Strengths) -> Draw:
    """Return the function that draws one synthetic pair from one of `maps`."""
    known = tissues()

    def draw(random: torch.Generator, crop: Any) -> tuple[Tensor, Tensor]:
        which = int(torch.randint(len(maps), (), generator=random, device=random.device))
        image, classes = sample(maps[which], known, random, crop, strengths)
        return image[None], classes

    return draw


@torch.no_grad()
def dice_on(network: nn.Module, maps: list[Tensor], seed: int = 7, repeats: int = 1) -> dict[str, float]:
    """Return the Dice of each class on synthetic T1-like images of `maps`, crop ROI, mean over maps."""
    device = maps[0].device
    random = torch.Generator(device).manual_seed(seed)
    both, total = torch.zeros(CLASSES), torch.zeros(CLASSES)
    for labels in maps * repeats:
        image, classes = sample(labels, tissues(), random, ROI, t1_like=True)
        found = network(image[None, None]).argmax(1)[0]
        for number in range(CLASSES):
            one, two = found == number, classes == number
            both[number] += 2.0 * float((one & two).sum())
            total[number] += float(one.sum() + two.sum())
    return {f"dice_{number}": float(both[number] / total[number]) for number in range(1, CLASSES)}


def budget(minutes: float, device: str) -> Budget:
    """Return the schedule for this device: small crops first, the network's own window at the end."""
    if device.startswith("cuda"):
        return Budget(
            minutes,
            batch=4,
            crops=((0.0, ROI),),
            class_weights=CLASS_WEIGHTS,
            learning_rate=2e-3,
            averaging=0.999,
            checkpoint_s=45.0,
            mixed_precision=True,
        )
    return Budget(minutes, crops=((0.0, (64, 64, 64)), (0.45, ROI)), class_weights=CLASS_WEIGHTS)


def train(labels: Path, minutes: float, out: Path, resume: Path | None = None) -> nn.Module:
    """Train for `minutes` on the label maps of a folder, checkpoints and log to `out`."""
    device = best_device()
    torch.manual_seed(1914)
    maps = [one.to(device) for one in read_labels(labels)]
    training = Training(
        build(*ARCHITECTURE), drawer(maps[:TRAINING_MAPS], Strengths()), budget(minutes, device), device, out
    )
    if resume:
        training.resume(resume)
    return training.run(partial(dice_on, maps=maps[TRAINING_MAPS:]))


def package(checkpoint: Path, labels: Path, version: str, out: Path, training: str, figures: str) -> Package:
    """Write the package of a checkpoint (your own file) to `out`; `training`, `figures` go into its card."""
    from models.packaging import write_package

    network = build(*ARCHITECTURE)
    network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["average"])
    random = torch.Generator().manual_seed(1914)
    golden, _ = sample(read_labels(labels)[TRAINING_MAPS], tissues(), random, ROI, PLAIN, t1_like=True)
    card = CARD.format(
        version=version,
        intended_use=INTENDED_USE,
        limits=LIMITS,
        parameters=count_parameters(network),
        training=training,
        figures=figures,
    )
    return write_package(network, declaration(version, ARCHITECTURE, ROI), [golden.numpy()[None]], card, out)


def prepare(labels: Path, out: Path) -> None:
    """Write labels.npz, so that a machine without nibabel can train."""
    out.mkdir(parents=True, exist_ok=True)
    maps = np.stack([read_ras(path) for path in label_files(labels)]).astype(np.uint16)
    np.savez_compressed(out / "labels.npz", maps=maps)


def arguments() -> argparse.ArgumentParser:
    """Return the command line: prepare, train, validate, package, evaluate."""
    parser = argparse.ArgumentParser(prog="python -m models.zoo.brain_structures", description=__doc__)
    parser.add_argument("step", choices=["prepare", "train", "validate", "package", "evaluate"])
    parser.add_argument("--labels", type=Path, help="folder of the label maps (seg_*.nii.gz or labels.npz)")
    parser.add_argument("--out", type=Path, help="folder to write to; for evaluate: where other networks' answers stay")
    parser.add_argument("--minutes", type=float, default=55.0, help="how long to train")
    parser.add_argument("--resume", type=Path, help="checkpoint.pt to go on from")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint.pt to validate or package")
    parser.add_argument("--version", default="0.0.1", help="version of the package")
    parser.add_argument("--training", default="", help="text of the card: machine, time, versions")
    parser.add_argument("--figures", type=Path, help="file with the figures for the card")
    parser.add_argument("--package", type=Path, help="package folder to evaluate")
    parser.add_argument("--mni", type=Path, help="folder of the MNI152 template and its tissue maps")
    parser.add_argument("--head", type=Path, help="NIfTI file of a head")
    parser.add_argument("--models", type=Path, help="folder with brainchop/ and deepbet/")
    return parser


def main() -> None:
    """Run one step of the recipe."""
    given = arguments().parse_args()
    if given.step == "prepare":
        prepare(given.labels, given.out)
    elif given.step == "train":
        train(given.labels, given.minutes, given.out, given.resume)
    elif given.step == "validate":
        print(json.dumps(validate(given.checkpoint, given.labels), indent=2))
    elif given.step == "package":
        figures = given.figures.read_text() if given.figures else "Not measured yet."
        package(given.checkpoint, given.labels, given.version, given.out, given.training, figures)
    else:
        from models.zoo.brain_structures_evaluation import as_text, evaluate

        print(as_text(evaluate(given.package, given.mni, given.head, given.models, given.out)))


def validate(checkpoint: Path, labels: Path) -> dict[str, float]:
    """Return the Dice of each class on synthetic T1-like images of the validation maps, four of each."""
    network = build(*ARCHITECTURE).eval()
    network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["average"])
    return dice_on(network, read_labels(labels)[TRAINING_MAPS:], repeats=4)


if __name__ == "__main__":
    main()

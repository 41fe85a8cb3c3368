"""The recipe of `brain-structures`: eight classes of a head in MR of any contrast, learned from label maps alone.

    python -m models.zoo.brain_structures train --labels DIR --minutes 55 --out DIR

It must never see a patient's image while it trains: every image is drawn from a label map.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.networks import build, count_parameters
from models.synthesis import Strengths, Tissues, sample, tissue_indices
from models.training import Budget, Draw, Judge, Training
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

# FreeSurfer number, class, T1-like mean from…to, place: "" brain, "fluid" around it, "out" extracerebral
_LABELS: tuple[tuple[int, int, float, float, str], ...] = (
    (0, 0, 0.0, 0.0, ""),
    (2, 2, 0.78, 0.95, ""),
    (3, 1, 0.47, 0.62, ""),
    (4, 3, 0.08, 0.28, ""),
    (5, 3, 0.08, 0.28, ""),
    (7, 4, 0.74, 0.92, ""),
    (8, 4, 0.47, 0.64, ""),
    (10, 5, 0.60, 0.78, ""),
    (11, 5, 0.50, 0.64, ""),
    (12, 5, 0.53, 0.70, ""),
    (13, 5, 0.64, 0.86, ""),
    (14, 3, 0.08, 0.30, ""),
    (15, 3, 0.08, 0.28, ""),
    (16, 7, 0.68, 0.86, ""),
    (17, 6, 0.46, 0.62, ""),
    (18, 6, 0.46, 0.62, ""),
    (24, 3, 0.06, 0.28, "fluid"),
    (25, 2, 0.45, 0.90, ""),
    (26, 5, 0.48, 0.62, ""),
    (28, 5, 0.62, 0.82, ""),
    (30, 2, 0.10, 0.80, ""),
    (72, 3, 0.08, 0.28, ""),
    (85, 0, 0.50, 0.90, "out"),
    (136, 3, 0.10, 0.40, ""),
    (137, 3, 0.10, 0.40, ""),
    (502, 0, 0.00, 0.60, "out"),
    (506, 0, 0.05, 0.40, "out"),
    (507, 0, 0.20, 1.80, "out"),
    (508, 0, 0.00, 0.50, "out"),
    (509, 0, 0.00, 0.40, "out"),
    (511, 0, 0.30, 1.80, "out"),
    (512, 0, 0.60, 0.90, "out"),
    (514, 0, 0.10, 1.20, "out"),
    (515, 0, 0.00, 0.25, "out"),
    (516, 0, 0.10, 1.80, "out"),
    (530, 0, 0.40, 0.90, "out"),
)
# right number → left number: the same tissue on the other side
_OTHER_SIDE = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 57: 25, 58: 26,
    60: 28, 62: 30, 163: 136, 164: 137,
}  # fmt: skip


def tissues() -> Tissues:
    """Return what every label number of the maps is."""
    left = {row[0]: row for row in _LABELS}
    rows = [*_LABELS, *((number, *left[other][1:]) for number, other in _OTHER_SIDE.items())]
    numbers = tuple(row[0] for row in rows)
    return Tissues(
        numbers=numbers,
        classes=tuple(row[1] for row in rows),
        t1=tuple((row[2], row[3]) for row in rows),
        outside=tuple(row[4] == "out" for row in rows),
        fluid=tuple(row[4] == "fluid" for row in rows),
        alike={numbers.index(number): numbers.index(other) for number, other in _OTHER_SIDE.items()},
    )


def read_labels(folder: Path) -> list[Tensor]:
    """Return the label maps of `folder` as tissue indices (x, y, z), uint8, axes R-A-S, 2 mm.

    Reads labels.npz (written by `prepare`) where there is one, else seg_*.nii.gz.
    """
    stacked = folder / "labels.npz"
    maps = np.load(stacked)["maps"] if stacked.is_file() else [read_ras(path) for path in label_files(folder)]
    return [tissue_indices(numbers, tissues()) for numbers in maps]


def label_files(folder: Path) -> list[Path]:
    """Return the label maps of `folder` in order; FileNotFoundError where there is none."""
    files = sorted(folder.glob("seg_*.nii.gz"))
    if not files:
        raise FileNotFoundError(f"no labels.npz and no seg_*.nii.gz in {folder}")
    return files


def read_ras(path: Path) -> npt.NDArray[Any]:
    """Return the voxels of a NIfTI file with axes turned to R-A-S."""
    import nibabel  # not there on every machine that trains

    image = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(np.asarray(image.dataobj))


def best_device() -> str:
    """Return "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def drawer(maps: list[Tensor], strengths: Strengths) -> Draw:
    """Return the function that draws one synthetic pair from one of `maps`."""
    known = tissues()

    def draw(random: torch.Generator, crop: Any) -> tuple[Tensor, Tensor]:
        which = int(torch.randint(len(maps), (), generator=random, device=random.device))
        return sample(maps[which], known, random, crop, strengths)

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
            crops=((0.0, ROI), (0.5, (96, 112, 96))),
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
    judge: Judge = lambda network: dice_on(network, maps[TRAINING_MAPS:])  # noqa: E731
    return training.run(judge)


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
    return write_package(network, declaration(version, ARCHITECTURE, ROI), golden.numpy(), card, out)


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

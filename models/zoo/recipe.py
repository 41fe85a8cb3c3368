"""What every recipe of this folder has: a network, a way to train it, golden inputs, a declaration and a card.

python -m models.zoo.hippocampus train --input DIR --minutes 30 --out DIR
python -m models.zoo.hippocampus package --checkpoint DIR/checkpoint.pt --version 0.1.0 --figures FILE --out DIR
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from models.networks import build, count_parameters
from models.training import Budget, Draw, Judge, Training

if TYPE_CHECKING:
    from models.package import Package
    from models.transforms import Floats

Figures = dict[str, float]


@dataclass(frozen=True)
class Lesson:
    """What there is to learn from: samples, and how well a network does on what is held back."""

    draw: Draw
    judge: Judge


@dataclass(frozen=True)
class Recipe:
    """One package: everything that makes it but the weights."""

    name: str
    architecture: tuple[str, dict[str, Any]]
    budget: Callable[[float], Budget]  # of so many minutes
    lesson: Callable[[Path | None], Lesson]  # from the input the command names
    golden: Callable[[], Sequence[Floats]]  # inputs of the network, synthetic
    declaration: Callable[[str], Mapping[str, Any]]  # content of package.json for a version
    card: str  # Markdown with {version}, {parameters}, {training}, {figures}
    input: str  # what --input is

    def untrained(self) -> nn.Module:
        """Return the network as it begins."""
        return build(*self.architecture)

    def trained(self, checkpoints: Sequence[Path]) -> nn.Module:
        """Return the averaged network of a checkpoint (your own file), in evaluation mode; of several their mean."""
        network = self.untrained()
        found = [torch.load(one, map_location="cpu", weights_only=True)["average"] for one in checkpoints]
        network.load_state_dict({name: torch.stack([one[name] for one in found]).mean(0) for name in found[0]})
        return network.eval()

    def train(self, given: Path | None, minutes: float, out: Path, resume: Path | None = None) -> nn.Module:
        """Train for `minutes`, checkpoints and log to `out`."""
        torch.manual_seed(1914)
        lesson = self.lesson(given)
        training = Training(self.untrained(), lesson.draw, self.budget(minutes), "cpu", out)
        if resume:
            training.resume(resume)
        return training.run(lesson.judge)

    def package(self, checkpoints: Sequence[Path], version: str, out: Path, training: str, figures: str) -> Package:
        """Write the package of checkpoints to `out`; `training`, `figures` go into its card."""
        from models.packaging import write_package

        network = self.trained(checkpoints)
        card = self.card.format(
            version=version, parameters=count_parameters(network), training=training, figures=figures
        )
        return write_package(network, self.declaration(version), self.golden(), card, out)

    def arguments(self) -> argparse.ArgumentParser:
        """Return the command line: train, validate, package."""
        parser = argparse.ArgumentParser(prog=f"python -m models.zoo.{self.name.replace('-', '_')}")
        parser.add_argument("step", choices=["train", "validate", "package"])
        parser.add_argument("--input", type=Path, help=self.input)
        parser.add_argument("--out", type=Path, help="folder to write to")
        parser.add_argument("--minutes", type=float, default=15.0, help="how long to train")
        parser.add_argument("--resume", type=Path, help="checkpoint.pt to go on from")
        parser.add_argument(
            "--checkpoint", type=Path, nargs="+", help="checkpoint.pt to validate or package; of several the mean"
        )
        parser.add_argument("--version", default="0.0.1", help="version of the package")
        parser.add_argument("--training", default="", help="sentence for the card: how it was trained")
        parser.add_argument("--figures", type=Path, help="Markdown file for the card: what was measured")
        return parser

    def run(self) -> None:
        """Run the step that the command line names."""
        given = self.arguments().parse_args()
        if given.step == "train":
            self.train(given.input, given.minutes, given.out, given.resume)
        elif given.step == "validate":
            print(json.dumps(self.lesson(given.input).judge(self.trained(given.checkpoint)), indent=2))
        else:
            figures = given.figures.read_text() if given.figures else "Not measured yet."
            self.package(given.checkpoint, given.version, given.out, given.training, figures)

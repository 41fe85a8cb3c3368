"""The training loop: a fixed budget of minutes or steps, seeds, checkpoints, a moving average of the weights.

It draws samples from a function it is given and must never read an image or a label map itself.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# (random, crop) → image (channels, axes…), classes (axes…) or, of a classifier, one number
Draw = Callable[[torch.Generator, Sequence[int]], tuple[Tensor, Tensor]]
UNKNOWN = -1  # a voxel of which nobody says what it is
Judge = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Budget:
    """How long to train and how; progress runs from 0 to 1 over the minutes or the steps, whichever ends first."""

    minutes: float = 55.0
    steps: int | None = None
    batch: int = 1
    crops: tuple[tuple[float, tuple[int, ...]], ...] = ((0.0, (64, 64, 64)),)  # from this progress on
    class_weights: tuple[float, ...] = ()  # of cross-entropy; empty: all equal
    learning_rate: float = 1.5e-3
    warm_up: float = 0.03  # share of the progress in which the rate rises
    last_rate: float = 0.01  # share of the rate that is left in the end
    weight_decay: float = 1e-4
    averaging: float = 0.997  # of the moving average, per step
    checkpoint_s: float = 180.0
    seed: int = 1914
    mixed_precision: bool = False
    proximal: float = 0.0  # FedProx: half of this times the squared distance to the first weights is added to the loss


def crop_at(progress: float, budget: Budget) -> tuple[int, ...]:
    """Return the crop that holds at `progress`."""
    return [crop for start, crop in budget.crops if progress >= start][-1]


def rate_at(progress: float, budget: Budget) -> float:
    """Return the learning rate at `progress`: a linear rise, then half a cosine down to what is left in the end."""
    if progress < budget.warm_up:
        return budget.learning_rate * (0.05 + 0.95 * progress / budget.warm_up)
    fall = (progress - budget.warm_up) / (1 - budget.warm_up)
    share = 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))
    return budget.learning_rate * (budget.last_rate + (1 - budget.last_rate) * share)


def loss_of(logits: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return cross-entropy, plus soft Dice loss of the classes present; logits (n, c, …), classes (n, …).

    Where a class is UNKNOWN nothing is learned. A classifier's logits (n, c), classes (n) have the entropy alone.
    """
    entropy = functional.cross_entropy(logits, classes, weights, ignore_index=UNKNOWN)
    if classes.dim() == 1:
        return entropy
    known = classes != UNKNOWN
    classes = classes.clamp(min=0)
    counted = known.flatten(1)[:, None]
    shares = torch.softmax(logits.float(), 1).flatten(2) * counted
    truth = functional.one_hot(classes, logits.shape[1]).movedim(-1, 1).flatten(2).float() * counted
    overlap = (shares * truth).sum((0, 2))
    total = (shares + truth).sum((0, 2))
    present = truth.sum((0, 2)) > 0
    return entropy + 1 - ((2 * overlap + 1) / (total + 1))[present].mean()


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, weight: float) -> None:
    """Move `average` towards `network`; it keeps the share `weight` of itself."""
    for mean, current in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(current, 1 - weight)


class Training:
    """One run: the network, its moving average, and the state that a checkpoint holds."""

    def __init__(self, network: nn.Module, draw: Draw, budget: Budget, device: str, folder: Path | None) -> None:
        """`folder`: of its checkpoints; None: it keeps none."""
        flat = any(isinstance(one, nn.Conv2d) for one in network.modules())
        self.layout = torch.channels_last if flat else torch.channels_last_3d
        self.network = network.to(device).to(memory_format=self.layout).train()  # type: ignore[call-overload]
        self.average: nn.Module = copy.deepcopy(self.network)
        self.anchor = [one.detach().clone() for one in self.network.parameters()] if budget.proximal else []
        self.draw, self.budget, self.device, self.folder = draw, budget, device, folder
        self.random = torch.Generator(device).manual_seed(budget.seed)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), weight_decay=budget.weight_decay)
        self.weights = torch.tensor(budget.class_weights, device=device) if budget.class_weights else None
        self.step, self.seconds, self.loss = 0, 0.0, math.nan

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        by_time = self.seconds / (self.budget.minutes * 60)
        return max(by_time, self.step / self.budget.steps) if self.budget.steps else by_time

    def run(self, judge: Judge | None = None) -> nn.Module:
        """Train until the budget is spent and return the averaged network, in evaluation mode."""
        saved = time.monotonic()
        while self.progress < 1:
            began = time.monotonic()
            self.one_step()
            self.seconds += time.monotonic() - began
            if time.monotonic() - saved > self.budget.checkpoint_s:
                self.save(judge)
                saved = time.monotonic()
        self.save(judge)
        return self.average.eval()

    def one_step(self) -> None:
        """Draw a batch, descend once, follow with the average."""
        crop, rate = crop_at(self.progress, self.budget), rate_at(self.progress, self.budget)
        pairs = [self.draw(self.random, crop) for _ in range(self.budget.batch)]
        images = torch.stack([image for image, _ in pairs]).contiguous(memory_format=self.layout)
        classes = torch.stack([target for _, target in pairs])
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.budget.mixed_precision):
            loss = loss_of(self.network(images), classes, self.weights)
        loss.backward()  # type: ignore[no-untyped-call]
        for one, first in zip(self.network.parameters(), self.anchor, strict=False):
            if one.grad is not None:
                one.grad.add_(one.detach() - first, alpha=self.budget.proximal)
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        follow(self.average, self.network, min(self.budget.averaging, self.step / (self.step + 10)))
        value = float(loss.detach())
        self.loss = value if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * value

    def save(self, judge: Judge | None = None) -> None:
        """Write checkpoint.pt (replaced in one move) and add a line to log.jsonl, where a folder was given."""
        if self.folder is None:
            return
        state: dict[str, Any] = {
            "average": self.average.state_dict(),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": self.random.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "budget": asdict(self.budget),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "checkpoint.pt")
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2), "loss": round(self.loss, 4)}
        judged = judge(self.average.eval()) if judge else {}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line | {name: round(value, 4) for name, value in judged.items()}) + "\n")

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint that this class wrote (trusted: your own file)."""
        state = torch.load(checkpoint, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.random.set_state(state["random"].cpu())
        self.step, self.seconds = int(state["step"]), float(state["seconds"])

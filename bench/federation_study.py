"""Does a federated model beat those that hospitals train alone, and how near does it come to pooling all images?

`python -m bench.federation_study --crops FOLDER [--seeds 3] [--privacy clip|dp]`. Rounds go through the very encoding,
judging and joining of the product (models/federation.py, models/local_pass.py), without the network between; all
models have the same network, the same number of steps for each case, and are judged on all held-back cases.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from bench.hospitals import Hospital, cases_of, hospitals
from models.federation import Question, Rules, Update, believed, clipped, decode, difference, digest_of, encode, join
from models.local_pass import (
    Case,
    Plan,
    dice_by_class,
    epsilon,
    put_into,
    sample_rate,
    shared_names,
    trained,
    weights_of,
)
from models.networks import build

ARCHITECTURE = (
    "thin-unet",
    {"inputs": 1, "classes": 3, "channels": [8, 16, 32, 64], "down": [2, 2, 2, 2], "up": [2, 2, 2]},
)
CLASSES, CLASS_WEIGHTS = 3, (0.5, 1.0, 1.0)
ROUNDS, STEPS = 6, 40
PLAN = Plan(steps=STEPS, batch=2, learning_rate=3e-3, proximal=0.01)
RULES = Rules(clip_norm=20.0, min_sites=2)
PRIVATE = Plan(steps=STEPS, batch=8, learning_rate=0.2, noise=1.0, patient_clip=1.0)
DELTA = 1e-3  # below one over the patients of a site


def fresh(seed: int) -> nn.Module:
    """Return the untrained network of a seed."""
    torch.manual_seed(seed)
    return build(*ARCHITECTURE)


def mean_dice(network: nn.Module, cases: Sequence[Case]) -> float:
    """Return the mean over both parts of the hippocampus."""
    return sum(dice_by_class(network, cases, CLASSES)) / (CLASSES - 1)


def by_site(network: nn.Module, sites: Sequence[Hospital]) -> dict[str, float]:
    """Return the Dice on each site's held-back cases, and their plain mean."""
    found = {one.name: mean_dice(network, one.held_back) for one in sites}
    return found | {"mean": sum(found.values()) / len(found)}


def share(network: nn.Module, site: Hospital, question: Question, base: dict, plan: Plan) -> bytes:
    """Return one site's update as it would leave the building."""
    one = copy.deepcopy(network)
    put_into(one, base)
    told = trained(one, site.training, plan, "cpu", CLASS_WEIGHTS)
    deltas = clipped(difference(weights_of(one, list(base)), base), RULES.clip_norm)
    return encode(Update(question, deltas, len(site.training), {"loss": told["loss"]}))


def federated(
    sites: Sequence[Hospital], seed: int, plan: Plan, rounds: int
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Return the model after all rounds, and its Dice by site after each."""
    network = fresh(seed)
    base = weights_of(network, shared_names(network, personal=False))
    after = []
    for number in range(1, rounds + 1):
        digest, updates = digest_of(base), []
        for site in sites:
            question = Question(f"study-{seed}", number, digest, site.name)
            sent = share(network, site, question, base, replace(plan, seed=seed * 1000 + number))
            updates.append(decode(sent, question, base))
        counted, refused = believed(updates, RULES)
        assert not refused, refused
        base = join(base, counted, RULES).weights
        put_into(network, base)
        after.append(by_site(network.eval(), sites))
    return network, after


def alone(cases: Sequence[Case], seed: int, steps: int) -> nn.Module:
    """Return a model trained on these cases in one go."""
    network = fresh(seed)
    trained(network, cases, replace(PLAN, steps=steps, proximal=0.0, seed=seed), "cpu", CLASS_WEIGHTS)
    return network


@dataclass(frozen=True)
class Outcome:
    """One seed."""

    seed: int
    rounds: list[dict[str, float]]
    local: dict[str, float]
    pooled: float

    @property
    def federated(self) -> float:
        """Mean Dice over all sites' held-back cases."""
        return self.rounds[-1]["mean"]


def study(folder: Path | None, seed: int, plan: Plan, rounds: int, *, baselines: bool) -> Outcome:
    """Run one seed; every model sees the same number of batches."""
    sites = hospitals(folder, seed)
    _, after = federated(sites, seed, plan, rounds)
    if not baselines:
        return Outcome(seed, after, {}, float("nan"))
    each = {one.name: by_site(alone(one.training, seed, rounds * plan.steps), sites)["mean"] for one in sites}
    pooled = by_site(alone(cases_of(sites), seed, rounds * plan.steps * len(sites)), sites)["mean"]
    return Outcome(seed, after, each, pooled)


def main() -> None:
    """Print one line of JSON for each seed."""
    parser = argparse.ArgumentParser(prog="python -m bench.federation_study")
    parser.add_argument(
        "--crops", type=Path, help="folder with images/ and labels/; made-up crops where it is not given"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each site in each round")
    parser.add_argument("--privacy", choices=["clip", "dp"], default="clip")
    given = parser.parse_args()
    plan = replace(PLAN if given.privacy == "clip" else PRIVATE, steps=given.steps)
    for seed in range(1, given.seeds + 1):
        began = time.process_time()
        one = study(given.crops, seed, plan, given.rounds, baselines=given.privacy == "clip")
        told = {"seed": seed, "privacy": given.privacy, "rounds": one.rounds, "local": one.local, "pooled": one.pooled,
                "cpu_s": round(time.process_time() - began, 1)}  # fmt: skip
        if given.privacy == "dp":
            told["epsilon"] = {
                site.name: round(
                    epsilon(plan.noise, sample_rate(len(site.training), plan), plan.steps * given.rounds, DELTA), 2
                )
                for site in hospitals(given.crops, seed)
            }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()

"""Does a federated model beat those that hospitals train alone, and how near does it come to pooling all images?

`python -m bench.federation_study [--seeds 3] [--privacy clip|dp] [--device cuda]`. Rounds go through the very encoding,
judging and joining of the product (models/federation.py, models/local_pass.py), without the network between. All begin
from the same weak start, take as many steps, and are judged on the held-back cases of all sites. A step on pooled
images sees as many of them as one step at each of the four hospitals together.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from opacus.accountants.utils import get_noise_multiplier
from torch import nn

from bench.hospitals import Crop, Hospital, cases_of, crops_of, deal, hospitals, unpacked
from bench.record import Record
from models.federation import (
    Floats,
    Question,
    Rules,
    Update,
    believed,
    clipped,
    decode,
    difference,
    digest_of,
    encode,
    join,
)
from models.hold_out import Reader
from models.local_pass import (
    Case,
    Plan,
    epsilon,
    put_into,
    sample_rate,
    shared_names,
    trained,
    weights_of,
)
from models.networks import build
from models.operations import SlidingWindow
from workers.coordinator.rounds import rate_of
from workers.sidecar.training_run import DELTA

ARCHITECTURE = (
    "thin-unet",
    {"inputs": 1, "classes": 3, "channels": [8, 16, 32, 64], "down": [1, 1, 1, 1], "up": [1, 1, 1]},
)
STRUCTURES = ("anterior", "posterior")
WINDOW = (32, 48, 32)  # voxels; a crop is about 35 × 50 × 35
WINDOWS = SlidingWindow(mode="sliding_window", roi=WINDOW, overlap=0.25, blend="gaussian", batch=2)
START_STEPS, START_RATE = 240, 1e-2
ROUNDS = 12
PLAN = Plan(steps=36, batch=2, crop=WINDOW, learning_rate=5e-3, proximal=0.01)
RULES = Rules(clip_norm=20.0, min_sites=2, aggregation="momentum", momentum=0.7)
BUDGET = 8.0  # ε of each patient after all rounds
PRIVATE = Plan(steps=4, batch=8, crop=WINDOW, learning_rate=1e-3)
Dice = dict[str, float]  # by site, and "mean" over them


def weak_start(crops: Sequence[Crop], seed: int, steps: int = START_STEPS) -> nn.Module:
    """Return a network that has learned from a few crops, which no hospital has."""
    torch.manual_seed(seed)
    network = build(*ARCHITECTURE)
    cases = [Case(image, labels.long(), f"earlier-{number}") for number, (image, labels) in enumerate(crops)]
    trained(network, cases, replace(PLAN, steps=steps, learning_rate=START_RATE, last_rate=0.01, seed=seed), "cpu")
    return network


def by_site(network: nn.Module, sites: Sequence[Hospital]) -> Dice:
    """Return the Dice on each site's held-back cases, and their plain mean."""
    found = {one.name: Reader(network, one.held_back, STRUCTURES, WINDOWS).mean() for one in sites}
    return found | {"mean": sum(found.values()) / len(found)}


def share(
    network: nn.Module, site: Hospital, question: Question, base: dict[str, Floats], how: tuple[Plan, str]
) -> bytes:
    """Return one site's update as it would leave the building; `how`: plan and device."""
    one = copy.deepcopy(network)
    put_into(one, base)
    told = trained(one, site.training, *how)
    deltas = clipped(difference(weights_of(one, list(base)), base), RULES.clip_norm)
    return encode(Update(question, deltas, len(site.training), {"loss": told["loss"]}))


def federated(
    start: nn.Module, sites: Sequence[Hospital], plans: Mapping[str, Plan], rounds: int, device: str = "cpu"
) -> list[Dice]:
    """Return the Dice by site of the start and after each round."""
    network = copy.deepcopy(start).eval()
    base = weights_of(network, shared_names(network, personal=False))
    after, step = [by_site(network, sites)], None
    for number in range(1, rounds + 1):
        digest, updates = digest_of(base), []
        for site in sites:
            question = Question("study", number, digest, site.name)
            plan = plans[site.name]
            plan = replace(plan, seed=number, learning_rate=rate_of(plan.learning_rate, number, rounds))
            updates.append(decode(share(network, site, question, base, (plan, device)), question, base))
        counted, refused = believed(updates, RULES)
        for name, why in refused.items():
            print(f"  round {number}: {name} does not count: {why}", flush=True)
        joined = join(base, counted, RULES, step)
        base, step = joined.weights, joined.step
        put_into(network, base)
        after.append(by_site(network.eval(), sites))
    return after


def in_one_place(start: nn.Module, cases: Sequence[Case], steps: int, batch: int, device: str) -> nn.Module:
    """Return a model trained on these cases in one go."""
    network = copy.deepcopy(start)
    trained(network, cases, replace(PLAN, steps=steps, batch=batch, proximal=0.0, last_rate=0.01), device)
    return network


def private_plan(site: Hospital, rounds: int) -> Plan:
    """Return a plan whose noise keeps each patient of a site within the budget over all rounds."""
    rate = sample_rate(len({one.patient for one in site.training}), PRIVATE)
    noise = get_noise_multiplier(
        target_epsilon=BUDGET, target_delta=DELTA, sample_rate=rate, steps=PRIVATE.steps * rounds, accountant="rdp"
    )
    return replace(PRIVATE, noise=float(noise))


def spent(site: Hospital, plan: Plan, rounds: int) -> float:
    """Return the ε of a patient of a site after all rounds."""
    rate = sample_rate(len({one.patient for one in site.training}), plan)
    return epsilon(plan.noise, rate, plan.steps * rounds, DELTA)


@dataclass(frozen=True)
class Seed:
    """One seed: who has which crop, and what all begin from."""

    number: int
    crops: Sequence[Crop]
    device: str

    def run(self, privacy: str, rounds: int) -> dict[str, Any]:
        """Return a row of figures; those who train alone or pooled are run with "clip" only."""
        dealt = deal(len(self.crops), self.number)
        sites = hospitals(self.crops, dealt)
        start = weak_start([self.crops[one] for one in dealt.earlier], self.number)
        plans = {one.name: PLAN if privacy == "clip" else private_plan(one, rounds) for one in sites}
        after = federated(start, sites, plans, rounds, self.device)
        row: dict[str, Any] = {"subject": privacy, "run": self.number, "rounds": after}
        print(
            f"seed {self.number} {privacy}: mean Dice by round {[round(one['mean'], 3) for one in after]}", flush=True
        )
        if privacy == "dp":
            return row | {"epsilon": {one.name: round(spent(one, plans[one.name], rounds), 2) for one in sites}}
        steps = rounds * PLAN.steps
        local = {
            one.name: by_site(in_one_place(start, one.training, steps, PLAN.batch, self.device), sites) for one in sites
        }
        pooled = by_site(in_one_place(start, cases_of(sites), steps, PLAN.batch * len(sites), self.device), sites)
        return row | {"local": local, "pooled": pooled}


def one_run(place: Path | None, rounds: int, device: str, which: tuple[int, str]) -> dict[str, Any]:
    """Return the figures of one seed and kind of privacy, in a process of its own."""
    torch.set_num_threads(1)
    seed, privacy = which
    return Seed(seed, crops_of(place), device).run(privacy, rounds)


def keep(record: Record, row: dict[str, Any]) -> None:
    """Keep a row, with its differences, and print them."""
    figure = row["rounds"][-1]["mean"]
    if row["subject"] == "dp":
        print(f"  dp {figure:.3f}, the start {row['rounds'][0]['mean']:.3f}, ε {row['epsilon']}")
    else:
        local, pooled = row["local"].values(), row["pooled"]["mean"]
        alone = sum(one["mean"] for one in local) / len(local)
        at_home = sum(one[name] for name, one in row["local"].items()) / len(local)
        row |= {"federated_minus_local_dice": figure - alone, "federated_minus_pooled_dice": figure - pooled}
        print(f"  federated {figure:.3f}, alone {alone:.3f} (at home {at_home:.3f}), pooled {pooled:.3f}", flush=True)
    record.rows.append(row)


def cost_of_privacy(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return what privacy took from the Dice of each seed that was run both ways."""
    last = {(row["subject"], row["run"]): row["rounds"][-1]["mean"] for row in rows}
    return [last["dp", run] - figure for (kind, run), figure in last.items() if kind == "clip" and ("dp", run) in last]


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(prog="python -m bench.federation_study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--privacy", choices=["clip", "dp"], nargs="+", default=["clip", "dp"])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    record = Record("federation-study", ("torch", "monai", "opacus"), patience_s=0)
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        place = unpacked(Path(os.environ.get("CURIE_SHARED", "../shared")), Path(folder))
        print(f"{'public' if place else 'made-up'} crops, {given.rounds} rounds", flush=True)
        several = [(seed, privacy) for privacy in given.privacy for seed in given.seeds]
        for row in pool.map(partial(one_run, place, given.rounds, given.device), several):
            keep(record, row)
            record.write()
    found = {
        name: [row[name] for row in record.rows if name in row]
        for name in ("federated_minus_local_dice", "federated_minus_pooled_dice")
    }
    for name, values in (found | {"dp_minus_clip_dice": cost_of_privacy(record.rows)}).items():
        if values:
            record.ratio(name, values)
            print(f"{name:32}" + "".join(f"{one:8.3f}" for one in values))
    print(record.write())


if __name__ == "__main__":
    main()

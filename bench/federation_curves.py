"""Dice by site and round: of the federated weights, of hospitals alone, and of all images in one place.

Reads the cases of hospitals from their own catalogues, as their sidecars do. Only who looks on from above may: no
process of the product sees the cases of two hospitals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from appliance.catalogue import open_catalogue
from appliance.settings import load
from bench.federation_study import PLAN, by_site
from bench.hospitals import Hospital, cases_of
from models.engines.torch import trained_network
from models.local_pass import put_into, trained
from models.package import load_package
from models.registry import Registry
from workers.coordinator.lineage import Lineage
from workers.coordinator.rounds import rate_of
from workers.sidecar.cases import held_back_cases, training_cases

Dice = dict[str, float]  # by site, and "mean" over them


@dataclass(frozen=True)
class Shape:
    """How long all of them learn."""

    rounds: int
    steps: int  # of each site in each round
    start_steps: int  # of the weak start


PUBLIC, MADE_UP = Shape(rounds=10, steps=24, start_steps=240), Shape(rounds=4, steps=12, start_steps=40)


def hospital_of(file: Path, package: str) -> Hospital:
    """Return the cases of the site that these settings belong to."""
    settings = load(file)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        registry = Registry(settings, catalogue)
        found = registry.package(package)
        cases = [tuple(read(settings, catalogue, found)) for read in (training_cases, held_back_cases)]
    finally:
        catalogue.close()
    return Hospital(file.parent.name, *cases)


def federated_curve(central: Path, sites: Sequence[Path], start: Path) -> list[Dice]:
    """Return what the coordinator's weights of each round of its last cycle give, the base first."""
    package = load_package(start)
    network, hospitals = trained_network(package), [hospital_of(one, package.id) for one in sites]
    lineage, found = Lineage(load(central).data_dir, package.id), []
    for record in lineage.rounds(lineage.cycles()[-1].id):
        put_into(network, lineage.weights(record))
        found.append(by_site(network.eval(), hospitals))
    return found


def baseline(taught: Sequence[Path], judged: Sequence[Path], start: Path, shape: Shape) -> list[Dice]:
    """Return what training on the images of some hospitals in one place gives, by round, judged at others.

    As many steps a round as each site of the federation, at the same rate, from the same start; a step sees as many
    images as one step at each of `taught` together. The last entry is judged at all `judged`, those before at `taught`.
    """
    torch.set_num_threads(1)
    package = load_package(start)
    known = {one: hospital_of(one, package.id) for one in {*taught, *judged}}
    own = [known[one] for one in taught]
    network, found = trained_network(package), []
    found.append(by_site(network.eval(), own))
    for number in range(1, shape.rounds + 1):
        rate = rate_of(PLAN.learning_rate, number, shape.rounds)
        many = PLAN.batch * len(own)
        plan = replace(PLAN, steps=shape.steps, batch=many, learning_rate=rate, proximal=0.0, seed=number)
        trained(network, cases_of(own), plan, "cpu")
        found.append(by_site(network, own if number < shape.rounds else [known[one] for one in judged]))
    return found

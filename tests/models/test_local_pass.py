"""A site's share of a round: what is trained, what is shared, what a patient can change of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from appliance.errors import RoundRefused
from models.federation import difference, norm_of
from models.hold_out import Reader
from models.local_pass import (
    Case,
    Plan,
    case_of,
    epsilon,
    is_held_back,
    put_into,
    sample_rate,
    shared_names,
    somewhere,
    trained,
    weights_of,
)
from models.networks import ThinUNet
from models.operations import SlidingWindow
from models.package import load_package
from models.registry import ZOO
from tests.models.conftest import volume_of

PLAN = Plan(steps=4, batch=1, crop=(16, 16, 16), learning_rate=2e-3)


def network() -> nn.Module:
    torch.manual_seed(3)
    return ThinUNet(1, 2, [4, 8], [1, 1], [1])


def cases(count: int = 4) -> list[Case]:
    """Return bright cubes in the dark, one patient each."""
    found = []
    for n in range(count):
        labels = torch.zeros((16, 16, 16), dtype=torch.long)
        labels[4 : 9 + n % 3, 4:11, 5:12] = 1
        found.append(Case(labels[None].float() + 0.1, labels, f"p{n}"))
    return found


def moved(plan: Plan, given: list[Case] | None = None) -> dict[str, np.ndarray]:
    """Return how far training moves the weights."""
    one = network()
    names = shared_names(one, personal=False)
    before = weights_of(one, names)
    trained(one, given or cases(), plan, "cpu")
    return difference(weights_of(one, names), before)


def test_the_same_cases_and_seed_give_the_same_update() -> None:
    one, two, other = moved(PLAN), moved(PLAN), moved(replace(PLAN, seed=7))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)
    assert norm_of(one) > 0


def test_training_learns() -> None:
    one = network()
    reads = Reader(one, cases(), ("cube",), SlidingWindow(mode="sliding_window", roi=PLAN.crop))
    before = reads.mean()
    trained(one, cases(), replace(PLAN, steps=60, learning_rate=1e-2), "cpu")
    assert reads.mean() > max(0.8, before)


def test_windows_of_a_large_case_come_from_everywhere_and_half_of_them_from_a_label() -> None:
    labels = torch.zeros((40, 16, 12), dtype=torch.long)
    labels[33, 8, 8] = 1
    random = torch.Generator().manual_seed(1)
    found = torch.stack([somewhere(labels, random, PLAN.crop) for _ in range(400)])
    assert found[:, 0].min() < -10 < 10 < found[:, 0].max()
    assert found.abs().max(0).values.tolist() == [12.0, 0.0, 0.0]  # a window stays inside
    assert 0.4 < float((found[:, 0] == 12.0).float().mean()) < 0.6


def test_a_proximal_term_keeps_near_the_base() -> None:
    plan = replace(PLAN, steps=20)
    assert norm_of(moved(replace(plan, proximal=50.0))) < norm_of(moved(plan))


def test_personal_layers_are_not_shared() -> None:
    one = network()
    every, few = shared_names(one, personal=False), shared_names(one, personal=True)
    assert set(few) < set(every)
    normalising = {name for name, layer in one.named_modules() if isinstance(layer, nn.InstanceNorm3d)}
    assert {name.rpartition(".")[0] for name in set(every) - set(few)} == normalising


def test_weights_of_another_network_are_refused() -> None:
    one = network()
    weights = weights_of(one, shared_names(one, personal=False))
    put_into(one, weights)
    name = next(iter(weights))
    with pytest.raises(RoundRefused, match="the network does not"):
        put_into(one, {name: weights[name][:1]})
    with pytest.raises(RoundRefused, match="the network does not"):
        put_into(one, {"other": weights[name]})


def test_without_a_case_the_site_sits_out() -> None:
    with pytest.raises(RoundRefused, match="no case"):
        trained(network(), [], PLAN, "cpu")


def test_a_fifth_of_the_patients_is_held_back_for_ever() -> None:
    chosen = [is_held_back(f"p{n}", "site") for n in range(2000)]
    assert 0.17 < sum(chosen) / 2000 < 0.23
    assert chosen == [is_held_back(f"p{n}", "site") for n in range(2000)]
    assert chosen != [is_held_back(f"p{n}", "other site") for n in range(2000)]


def test_one_patient_moves_a_private_update_by_no_more_than_its_clip() -> None:
    plan = replace(PLAN, steps=1, batch=4, noise=1e-9, patient_clip=0.01, learning_rate=1.0)
    four = cases()
    odd = Case(four[3].image * 50, 1 - four[3].labels, "p3")
    most = 2 * plan.patient_clip * plan.learning_rate / 4  # one gradient in, another out
    apart = difference(moved(plan, [*four[:3], odd]), moved(plan, four))
    assert 0 < norm_of(apart) <= most * 1.01
    assert norm_of(moved(plan)) <= plan.patient_clip * plan.learning_rate * 1.01


def test_all_images_of_a_patient_count_once() -> None:
    plan = replace(PLAN, steps=1, batch=4, noise=1e-9, patient_clip=0.01, learning_rate=1.0)
    same = [replace(case, patient="p") for case in cases()]
    assert norm_of(moved(plan, same)) <= plan.patient_clip * plan.learning_rate * 1.01


def test_noise_is_as_large_as_it_is_said_to_be() -> None:
    plan = replace(PLAN, steps=1, batch=4, noise=100.0, patient_clip=0.01, learning_rate=1.0)
    found = np.concatenate([one.ravel() for one in moved(plan).values()])
    assert found.std() == pytest.approx(100.0 * 0.01 / 4, rel=0.1)


def test_batch_normalisation_is_refused_in_private() -> None:
    mixing = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))
    with pytest.raises(RoundRefused, match="batch normalisation"):
        trained(mixing, cases(), replace(PLAN, noise=1.0), "cpu")


def test_epsilon_is_what_others_compute() -> None:
    assert epsilon(1.1, 256 / 60000, 15 * 234, 1e-5) == pytest.approx(1.2, abs=0.3)  # MNIST in TensorFlow Privacy
    assert epsilon(1.0, 0.1, 50, 1e-3) < epsilon(1.0, 0.1, 100, 1e-3) < epsilon(0.7, 0.1, 100, 1e-3)
    assert sample_rate(40, replace(PLAN, batch=4)) == pytest.approx(0.1)


def test_labels_go_where_the_image_goes() -> None:
    package = load_package(ZOO / "brain-structures")
    voxels = np.zeros((20, 40, 36), np.float32)
    voxels[5:12, 10:30, 8:20] = 100
    volume = volume_of(voxels, np.diag([3.0, 1.0, 1.0, 1.0]))
    case = case_of(volume, (voxels > 0).astype(np.uint8), package.manifest, "p")
    assert case.image.shape[1:] == case.labels.shape
    bright = case.image[0] > case.image[0].max() / 2
    assert float((bright == (case.labels > 0)).float().mean()) > 0.98

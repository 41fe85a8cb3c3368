"""The loop learns something simple, stops when its budget is spent and can go on from a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.networks import build
from models.training import Budget, Training, crop_at, loss_of, rate_at

TINY = {"inputs": 1, "classes": 2, "channels": [4, 8], "down": [1, 1], "up": [1]}


def bright_is_one(random: torch.Generator, crop: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return noise and a class that follows from it."""
    image = torch.rand(tuple(crop), generator=random)
    return image[None], (image > 0.5).long()


def training(folder: Path, steps: int) -> Training:
    """Return a tiny run of so many steps."""
    torch.manual_seed(0)
    budget = Budget(minutes=5, steps=steps, crops=((0.0, (8, 8, 8)),), learning_rate=1e-2, averaging=0.9)
    return Training(build("thin-unet", TINY), bright_is_one, budget, "cpu", folder)


def test_it_learns_and_stops_after_its_steps(tmp_path: Path) -> None:
    run = training(tmp_path, 60)
    network = run.run()
    image, classes = bright_is_one(torch.Generator().manual_seed(5), (8, 8, 8))
    assert run.step == 60
    assert (network(image[None]).argmax(1)[0] == classes).float().mean() > 0.85
    assert json.loads((tmp_path / "log.jsonl").read_text())["step"] == 60


def test_two_runs_with_one_seed_are_equal(tmp_path: Path) -> None:
    first, second = (training(tmp_path / name, 3).run().state_dict() for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole", 6)
    whole.run()
    half = training(tmp_path / "half", 6)
    while half.step < 3:
        half.one_step()
    half.save()
    rest = training(tmp_path / "rest", 6)
    rest.resume(tmp_path / "half" / "checkpoint.pt")
    rest.run()
    for one, two in zip(whole.average.parameters(), rest.average.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_the_rate_rises_then_falls_and_crops_grow() -> None:
    budget = Budget(crops=((0.0, (8, 8, 8)), (0.6, (16, 16, 16))), learning_rate=1.0, warm_up=0.1)
    rates = [rate_at(progress, budget) for progress in (0.0, 0.05, 0.1, 0.5, 1.0)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(1.0)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(0.01)
    assert rate_at(1.0, replace(budget, last_rate=1.0)) == 1.0
    assert crop_at(0.59, budget) == (8, 8, 8)
    assert crop_at(0.6, budget) == (16, 16, 16)


def test_the_loss_is_nothing_for_the_right_answer_and_large_for_the_wrong_one() -> None:
    classes = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    classes[:, 2:] = 1
    right = torch.stack([classes == 0, classes == 1], 1).float() * 40
    assert float(loss_of(right, classes)) < 0.02
    assert float(loss_of(right.flip(1), classes)) > 10

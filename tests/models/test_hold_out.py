"""A successor is held against the active version, structure by structure and scanner by scanner."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.hold_out import ALL, Score, scores, worse
from models.local_pass import Case

STRUCTURES = ("anterior", "posterior")


class Says(nn.Module):
    """A network that reads the labels out of its image, and forgets a class on images of one brightness."""

    def __init__(self, forgets: int = 0, on: float = 0.0) -> None:
        super().__init__()
        self.forgets, self.on = forgets, on

    def forward(self, image: Tensor) -> Tensor:
        labels = image[:, 0].round().long()
        if self.forgets and float(image.max()) == self.on:
            labels = torch.where(labels == self.forgets, 0, labels)
        return nn.functional.one_hot(labels.clamp(max=2), 3).movedim(-1, 1).float()


def case(scanner: str, brightest: float) -> Case:
    labels = torch.zeros((16, 16, 16), dtype=torch.long)
    labels[2:6, 2:6, 2:6], labels[8:12, 8:12, 8:12] = 1, 2
    image = labels[None].float()
    image[0, 9, 9, 9] = brightest
    return Case(image, labels, "p", scanner)


CASES = [case("old", 2.25)] * 4 + [case("new", 2.4)] * 6 + [case("rare", 2.1)]


def test_equal_networks_are_no_worse_anywhere() -> None:
    found = scores(Says(), Says(), CASES, STRUCTURES)
    assert {(one.structure, one.scanner, one.cases) for one in found} == {
        (name, scanner, count) for name in STRUCTURES for scanner, count in ((ALL, 11), ("old", 4), ("new", 6))
    }
    assert all(one.active == one.candidate == 1.0 for one in found)
    assert worse(found, 0.0) == ""


def test_a_loss_on_one_scanner_is_named_though_the_mean_may_bear_it() -> None:
    found = scores(Says(forgets=2, on=2.25), Says(), CASES, STRUCTURES)
    assert worse(found, 0.4).startswith("posterior has Dice 0.000 on the 4 held-back cases of old")
    assert worse([one for one in found if one.scanner == ALL], 0.4) == ""


def test_what_is_within_the_margin_is_borne() -> None:
    near = [Score("anterior", ALL, 9, 0.870, 0.862)]
    assert worse(near, 0.01) == ""
    assert "at most 0.005 may be lost" in worse(near, 0.005)


def test_nothing_to_judge_by_is_no_verdict() -> None:
    assert scores(Says(), Says(), [], STRUCTURES) == []
    with pytest.raises(ValueError, match="no score"):
        worse([], 0.01)

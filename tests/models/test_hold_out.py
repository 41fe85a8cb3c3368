"""A successor is held against the active version, structure by structure and scanner by scanner."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.hold_out import ALL, Reader, Score, scores, worse
from models.local_pass import Case
from models.operations import SlidingWindow

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
WINDOWS = SlidingWindow(mode="sliding_window", roi=(16, 16, 16))


def reads(network: nn.Module, structures: tuple[str, ...] = STRUCTURES) -> Reader:
    return Reader(network, CASES, structures, WINDOWS)


def test_equal_networks_are_no_worse_anywhere() -> None:
    found = scores(reads(Says()), reads(Says()))
    assert {(one.structure, one.scanner, one.cases) for one in found} == {
        (name, scanner, count) for name in STRUCTURES for scanner, count in ((ALL, 11), ("old", 4), ("new", 6))
    }
    assert all(one.active == one.candidate == 1.0 for one in found)
    assert worse(found, 0.0) == ""


def test_a_loss_on_one_scanner_is_named_though_the_mean_may_bear_it() -> None:
    found = scores(reads(Says(forgets=2, on=2.25)), reads(Says()))
    assert worse(found, 0.4).startswith("posterior has Dice 0.000 on the 4 held-back cases of old")
    assert worse([one for one in found if one.scanner == ALL], 0.4) == ""


def test_structures_go_by_name_and_each_version_has_its_own_grid() -> None:
    labels, image = torch.zeros((16, 16, 16), dtype=torch.long), torch.zeros((1, 16, 16, 16))
    labels[2:6, 2:6, 2:6], image[0, 2:6, 2:6, 2:6] = 2, 2.0
    other = Reader(Says(), [Case(image, labels, "p", "old")] * len(CASES), ("new name", "anterior"), WINDOWS)
    (found,) = [one for one in scores(other, reads(Says())) if one.scanner == ALL]
    assert (found.structure, found.active, found.candidate) == ("anterior", 1.0, 1.0)


def test_a_volume_is_read_by_windows_as_a_study_is() -> None:
    small = Reader(Says(), CASES, STRUCTURES, SlidingWindow(mode="sliding_window", roi=(8, 8, 8)))
    assert small.by_structure() == {"anterior": 1.0, "posterior": 1.0}
    assert small.mean() == 1.0


def test_what_is_within_the_margin_is_borne() -> None:
    near = [Score("anterior", ALL, 9, 0.870, 0.862)]
    assert worse(near, 0.01) == ""
    assert "at most 0.005 may be lost" in worse(near, 0.005)


def test_nothing_to_judge_by_is_no_verdict() -> None:
    assert scores(replace(reads(Says()), cases=[]), replace(reads(Says()), cases=[])) == []
    with pytest.raises(ValueError, match="no score"):
        worse([], 0.01)

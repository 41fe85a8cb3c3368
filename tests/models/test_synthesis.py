"""Synthetic images: seeded, aligned with their labels, stripped where asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.synthesis import Strengths, sample, strip, tissue_indices
from models.zoo.brain_structures import CLASSES
from models.zoo.brain_structures_labels import tissues

CROP = (24, 32, 24)


def ball_head() -> torch.Tensor:
    """Return tissue indices of a ball of white matter in cortex, fluid, bone and skin; (64, 64, 64) of 2 mm."""
    distance = np.linalg.norm(np.indices((64, 64, 64)) - 31.5, axis=0)
    numbers = np.zeros(distance.shape, np.uint16)
    for radius, number in ((28, 511), (25, 515), (22, 24), (19, 3), (14, 2)):
        numbers[distance < radius] = number
    return tissue_indices(numbers, tissues())


def drawn(seed: int, **strengths: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one sample with this seed."""
    random = torch.Generator().manual_seed(seed)
    return sample(ball_head(), tissues(), random, CROP, Strengths(**strengths), t1_like=True)


def test_the_same_seed_draws_the_same_and_another_seed_another() -> None:
    (one, classes), (two, again), (three, _) = drawn(1), drawn(1), drawn(2)
    assert torch.equal(one, two)
    assert torch.equal(classes, again)
    assert not torch.equal(one, three)


def test_a_sample_is_a_finite_image_and_classes_that_exist() -> None:
    for seed in range(6):
        image, classes = drawn(seed)
        assert image.shape == classes.shape == CROP
        assert torch.isfinite(image).all()
        assert int(classes.max()) < CLASSES


def test_in_a_t1_like_image_white_matter_is_brighter_than_cortex_than_fluid() -> None:
    image, classes = drawn(3, noise=0.0, bias=0.0, thick=0.0, stripped=0.0)
    means = [float(image[classes == number].mean()) for number in (2, 1, 3)]
    assert means == sorted(means, reverse=True)


def test_stripping_leaves_brain_and_no_skull() -> None:
    head, known = ball_head().long(), tissues()
    for seed in range(5):
        stripped = strip(head, known, torch.Generator().manual_seed(seed))
        left = {known.numbers[index] for index in stripped.unique().tolist()}
        assert {0, 2, 3} <= left <= {0, 2, 3, 24}


def test_an_unknown_label_number_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\[999\]"):
        tissue_indices(np.array([[[0, 999]]], np.uint16), tissues())


def test_both_sides_are_one_tissue() -> None:
    known = tissues()
    for index, other in known.alike.items():
        assert known.classes[index] == known.classes[other]

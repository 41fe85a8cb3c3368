"""The same head gives the same labels however it was scanned, and windows add up to the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from appliance.errors import ResultRejected
from appliance.volume import Volume
from models.deciding import cleaned, read
from models.engines import Engine
from models.inference import sliding_window, starts, window_weight
from models.operations import LargestComponent, RemoveSmall, SlidingWindow
from models.package import Package
from models.parity import GoldenCase, dice_of
from models.transforms import CPU
from tests.models.conftest import volume_of


class Pointwise:
    """A network that treats each voxel alone, so that windows must give exactly the direct answer."""

    name, precision, device = "pointwise", "f32", CPU

    def run(self, batch: Tensor) -> Tensor:
        return torch.cat([2 * batch + 1, -batch], 1)

    def close(self) -> None: ...


class Broken(Pointwise):
    """A network that answers NaN somewhere."""

    def run(self, batch: Tensor) -> Tensor:
        answer = torch.zeros((len(batch), 8, *batch.shape[2:]))
        answer[0, 3, 5, 5, 5] = torch.nan
        return answer


def segment(volume: Volume, package: Package, engine: Engine) -> np.ndarray:
    """Return the label map of one volume."""
    return read([[volume]], package, engine).label_maps[0]


@pytest.mark.parametrize("shape", [(16, 20, 12), (17, 33, 40), (5, 50, 12)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_windows_of_a_linear_network_add_up_to_the_direct_answer(
    shape: tuple[int, ...], batch: int, blend: str
) -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32))
    plan = SlidingWindow.model_validate(
        {"mode": "sliding_window", "roi": (16, 20, 12), "overlap": 0.25, "blend": blend, "batch": batch}
    )
    done: list[float] = []
    logits = sliding_window(image, Pointwise(), plan, done.append)
    np.testing.assert_allclose(logits, Pointwise().run(image[None])[0], atol=2e-6)
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_windows_lie_where_monai_puts_them() -> None:
    assert starts(100, 96, 0.25) == [0, 4]
    assert starts(96, 96, 0.25) == [0]
    assert starts(128, 80, 0.25) == [0, 48]
    assert starts(200, 80, 0.5) == [0, 40, 80, 120]


def test_windows_are_those_of_monai() -> None:
    inferers = pytest.importorskip("monai.inferers")
    image = torch.rand(1, 1, 23, 31, 18)
    plan = SlidingWindow(mode="sliding_window", roi=(16, 16, 16), overlap=0.25, batch=2)
    ramp = torch.linspace(0, 1, 16)

    def by_place(windows: torch.Tensor) -> torch.Tensor:  # depends on where in the window a voxel lies
        return windows * ramp[:, None, None] + ramp

    class ByPlace(Pointwise):
        def run(self, batch: Tensor) -> Tensor:
            return by_place(batch)

    theirs = inferers.sliding_window_inference(image, (16, 16, 16), 2, by_place, 0.25, mode="gaussian")
    ours = sliding_window(image[0], ByPlace(), plan)
    np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-5)


def test_the_weight_is_one_in_the_middle_and_never_nothing() -> None:
    weight = window_weight(SlidingWindow(mode="sliding_window", roi=(15, 15, 15)), CPU)
    assert weight[7, 7, 7] == 1.0
    assert weight.min() == np.float32(1e-3)


def flipped(head: Volume, axis: int) -> Volume:
    """Return the same head with voxels stored in the other direction along `axis`."""
    affine = head.affine.copy()
    affine[:3, 3] += affine[:3, axis] * (head.shape[axis] - 1)
    affine[:3, axis] *= -1
    return volume_of(np.flip(head.voxels, axis), affine)


def permuted(head: Volume, order: tuple[int, int, int]) -> Volume:
    """Return the same head with its axes stored in another order."""
    affine = head.affine.copy()
    affine[:3, :3] = head.affine[:3, list(order)]
    return volume_of(np.transpose(head.voxels, order), affine)


@pytest.fixture(scope="module")
def labels(head: Volume, shipped: Package, engine: Engine) -> np.ndarray:
    return segment(head, shipped, engine)


def test_the_golden_head_is_labelled_as_its_golden_case_says(
    shipped: Package, engine: Engine, golden: GoldenCase
) -> None:
    labels = segment(volume_of(golden.image[0], np.diag([-2.0, -2.0, 2.0, 1.0])), shipped, engine)
    for number in (1, 2, 3, 4):
        assert dice_of(labels == number, golden.labels == number) > 0.97


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flipped_series_gets_the_same_labels(
    head: Volume, labels: np.ndarray, shipped: Package, engine: Engine, axis: int
) -> None:
    again = np.flip(segment(flipped(head, axis), shipped, engine), axis)
    assert (again == labels).mean() > 0.9999


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0)])
def test_a_series_in_another_plane_gets_the_same_labels(
    head: Volume, labels: np.ndarray, shipped: Package, engine: Engine, order: tuple[int, int, int]
) -> None:
    again = segment(permuted(head, order), shipped, engine)
    assert (again == np.transpose(labels, order)).mean() > 0.9999


def test_thick_slices_are_labelled_on_their_own_grid(
    head: Volume, labels: np.ndarray, shipped: Package, engine: Engine
) -> None:
    affine = head.affine.copy()
    affine[:3, 2] *= 3
    affine[:3, 3] += head.affine[:3, 2]
    slices = head.shape[2] // 3
    threes = np.asarray(head.voxels, np.float32)[:, :, : slices * 3].reshape(*head.shape[:2], slices, 3)
    thick = volume_of(threes.mean(-1), affine)
    again = segment(thick, shipped, engine)
    assert again.shape == thick.shape
    assert dice_of(again > 0, labels[:, :, 1 : slices * 3 : 3] > 0) > 0.9


def test_other_units_of_the_image_change_nothing(
    head: Volume, labels: np.ndarray, shipped: Package, engine: Engine
) -> None:
    other = volume_of(np.asarray(head.voxels, np.float32) * 3 - 1024, head.affine)
    assert (segment(other, shipped, engine) == labels).mean() > 0.9999


def test_logits_that_are_not_finite_make_no_result(head: Volume, shipped: Package) -> None:
    with pytest.raises(ResultRejected, match="not finite"):
        segment(head, shipped, Broken())


def two_parts() -> np.ndarray:
    """Return a label map with a large part of labels 1 and 2 and a small part of each apart from it."""
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:10, 2:10, 2:10] = 1
    labels[10:12, 2:10, 2:10] = 2
    labels[17:19, 17:19, 17:19] = 1
    labels[17, 2, 2] = 2
    return labels


def test_the_largest_part_of_several_segments_together_is_kept() -> None:
    kept = cleaned(two_parts(), LargestComponent(op="largest_component", segments=(1, 2)), 0.001)
    assert np.bincount(kept.ravel()).tolist() == [8000 - 640, 512, 128]


def test_small_parts_go_only_where_they_are_too_small_and_asked_for() -> None:
    step = RemoveSmall(op="remove_small", segments=(2,), min_volume_ml=0.004)
    assert np.bincount(cleaned(two_parts(), step, 0.001).ravel()).tolist() == [8000 - 648, 520, 128]

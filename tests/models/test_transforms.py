"""Grids: which axis goes where, where voxels lie after resampling, and the way back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from appliance.errors import ResultRejected, StudyUnsuitable
from models.operations import (
    Clip,
    ClipPercentile,
    CropForeground,
    FillOutside,
    Orient,
    Preprocess,
    Resample,
    Resize,
    Scale,
    ScaleRange,
    ZScore,
)
from models.transforms import (
    CPU,
    interpolated,
    labels_on_source,
    nearest_on_source,
    network_grid,
    onto,
    prepared,
    require_finite,
    turn_towards,
)
from models.values import changed, percentiles, sorted_percentiles
from tests.models.conftest import volume_of

RAS = Orient(op="orient", axcodes="RAS")
TWO_MM = Resample(op="resample", spacing_mm=(2, 2, 2))


def test_a_sagittal_series_is_turned_to_right_anterior_superior() -> None:
    # k runs to the left, j (rows downwards) to the feet, i (columns) to the back
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    turn = turn_towards(affine, "RAS")
    assert (turn.order, turn.flipped) == ((0, 2, 1), (True, True, True))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_turning_puts_every_voxel_where_its_coordinates_say(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * signs
    array = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4, 5)))
    turn = turn_towards(affine, "RAS")
    turned = turn.apply(array)
    coordinates = np.einsum("ab,bkji->akji", affine[:3, :3], np.indices(tuple(array.shape)))
    lps = (torch.from_numpy(axis) for axis in (-coordinates[0], -coordinates[1], coordinates[2]))
    right, anterior, superior = (turn.apply(axis).numpy() for axis in lps)
    assert (np.diff(right, axis=0) > 0).all()
    assert (np.diff(anterior, axis=1) > 0).all()
    assert (np.diff(superior, axis=2) > 0).all()
    np.testing.assert_array_equal(turn.undo(turned), array)


def test_an_oblique_series_goes_to_the_closest_axes() -> None:
    angle = np.deg2rad(30)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert turn_towards(affine, "LPS").order == (0, 1, 2)
    assert turn_towards(affine, "LPS").flipped == (False, False, False)


def test_resampling_keeps_the_outer_faces_and_a_linear_ramp() -> None:
    positions = (np.arange(20, dtype=np.float32) + 0.5) * 1.0  # mm from the outer face
    image = np.broadcast_to(positions[:, None, None], (20, 4, 4)).copy()
    coarse = interpolated(torch.from_numpy(image), (10, 4, 4)).numpy()
    np.testing.assert_allclose(coarse[:, 0, 0], (np.arange(10) + 0.5) * 2.0, rtol=1e-6)
    assert coarse.dtype == np.float32


def test_the_grid_has_the_declared_spacing_along_the_turned_axes() -> None:
    affine = np.diag([5.0, 0.5, 1.0, 1.0])  # k along the patient's x
    grid = network_grid(volume_of(np.zeros((12, 90, 61), np.float32), affine), [RAS, TWO_MM])
    assert grid.size == (30, round(22.5), 30)


STEPS: list[Preprocess] = [RAS, TWO_MM, ClipPercentile(op="clip_percentile", lower=5, upper=95), Scale(op="scale")]


def test_preparing_gives_float32_between_the_declared_ends() -> None:
    voxels = np.random.default_rng(0).integers(0, 4000, (9, 20, 31)).astype(np.int16)
    image, _ = prepared([volume_of(voxels, np.diag([4.0, 1.0, 1.0, 1.0]))], STEPS)
    assert image.dtype == torch.float32
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)


def test_fixed_limits_clip() -> None:
    image = torch.tensor([-2000.0, 5.0, 900.0]).reshape(1, 3, 1, 1)
    assert changed(image, Clip(op="clip", lower=-100, upper=400)).ravel().tolist() == [-100.0, 5.0, 400.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_unsuitable(bad: float) -> None:
    voxels = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    voxels[4, 4, 4] = bad
    with pytest.raises(StudyUnsuitable, match="finite"):
        prepared([volume_of(voxels, np.eye(4))], STEPS)


def test_an_image_of_one_value_is_unsuitable() -> None:
    with pytest.raises(StudyUnsuitable, match="same value"):
        prepared([volume_of(np.ones((8, 8, 8), np.float32), np.eye(4))], STEPS)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("brain", [np.s_[:, :, :], np.s_[3:9, 8:, 2:5], np.s_[2:5, 6:9, 0:3]])
def test_labels_on_the_source_are_the_largest_of_the_interpolated_logits(
    classes: int, brain: tuple[slice, ...]
) -> None:
    source = volume_of(np.zeros((11, 24, 17), np.float32), np.diag([3.0, 1.0, -1.5, 1.0]))
    grid = network_grid(source, [RAS, TWO_MM])
    shape = tuple(grid.size[axis] for axis in grid.turn.order)
    logits = np.random.default_rng(2).normal(size=(classes, *shape)).astype(np.float32)
    outside = np.ones(shape, bool)
    outside[brain] = False
    logits[0] += 6 * outside
    straight = [grid.turn.undo(one).contiguous() for one in torch.from_numpy(logits)]
    expected = torch.stack([interpolated(one, source.shape) for one in straight]).argmax(0).numpy()
    labels = labels_on_source(torch.from_numpy(logits), grid)
    assert labels.dtype == np.uint8
    assert labels.any()
    np.testing.assert_array_equal(labels, expected)


def test_where_background_is_everywhere_nothing_is_labelled() -> None:
    grid = network_grid(volume_of(np.zeros((4, 4, 4), np.float32), np.eye(4)), [RAS, TWO_MM])
    logits = torch.zeros(3, 2, 2, 2)
    assert not labels_on_source(logits, grid).any()


def test_logits_that_are_not_finite_are_rejected() -> None:
    logits = torch.zeros(2, 3, 3, 3)
    require_finite(logits)
    logits[1, 0, 0, 0] = torch.nan
    with pytest.raises(ResultRejected, match="not finite"):
        require_finite(logits)


def test_channels_on_the_same_grid_stay_as_they_are_and_zeros_stay_zeros() -> None:
    affine = np.diag([-0.9, 0.8, 1.3, 1.0])
    affine[:3, 3] = (31.7, -12.3, 5.1)
    voxels = np.random.default_rng(3).normal(size=(9, 8, 7)).astype(np.float32)
    voxels[:3] = 0
    first, second = volume_of(voxels, affine), volume_of(voxels * 2, affine)
    image, _ = prepared([first, second], [RAS])
    assert torch.equal(image[1], image[0] * 2)
    assert (image[1] == 0).sum() == 3 * 8 * 7


def ramp(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Return voxels whose value is a linear function of their place in the patient, in mm."""
    k, j, i = np.indices(shape).astype(np.float64)
    x, y, z = (affine[n, 0] * k + affine[n, 1] * j + affine[n, 2] * i + affine[n, 3] for n in range(3))
    return (2 * x - 3 * y + 5 * z).astype(np.float32)


def test_a_second_series_is_brought_onto_the_grid_of_the_first_in_patient_space() -> None:
    first = np.diag([4.0, 1.0, 1.5, 1.0])
    turned = np.array(
        [[0, 0, 0.8, -12], [0, 1.1, 0, -9], [-2.0, 0, 0, 70], [0, 0, 0, 1.0]]
    )  # another plane and spacing
    shapes = (14, 40, 30), (45, 70, 90)
    volumes = [volume_of(ramp(shape, affine), affine) for shape, affine in zip(shapes, (first, turned), strict=True)]
    image, grid = prepared(volumes, [RAS, TWO_MM])
    assert image.shape[0] == 2
    straight = grid.turn.undo(image).numpy()
    inside = np.s_[:, 2:-2, 2:-2, 2:-2]
    assert np.abs(straight[inside][0] - straight[inside][1]).max() < 0.05


def test_where_the_second_series_does_not_reach_its_lowest_value_stands() -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    small = volume_of(np.full((5, 10, 10), 7.0, np.float32), affine)
    small.voxels[0, 0, 0] = -3.0
    image, grid = prepared([volume_of(np.zeros((10, 10, 10), np.float32), affine), small], [RAS, TWO_MM])
    second = grid.turn.undo(image)[1].numpy()
    assert (second[5:] == -3.0).all()
    np.testing.assert_allclose(second[1:5], 7.0, rtol=1e-5)


def test_bringing_a_second_series_onto_the_first_takes_no_more_room_than_the_series() -> None:
    shifted = np.eye(4)
    shifted[0, 3] = 0.5
    first, second = (volume_of(np.ones((64, 48, 40), np.float32), affine) for affine in (np.eye(4), shifted))
    with torch.profiler.profile(profile_memory=True) as watched:
        found = onto(second, first, network_grid(first, [RAS]), CPU)
    assert torch.allclose(found, torch.ones(()))
    assert max(event.cpu_memory_usage for event in watched.events()) <= found.numel() * found.itemsize


def test_the_foreground_is_cut_out_and_what_is_found_is_put_back() -> None:
    voxels = np.zeros((20, 30, 40), np.float32)
    voxels[5:12, 8:20, 10:25] = np.random.default_rng(0).random((7, 12, 15)) + 1
    volume = volume_of(voxels, np.diag([2.0, 2.0, 2.0, 1.0]))
    crop = CropForeground(op="crop_foreground", threshold=0.5, margin_mm=2.0)
    image, grid = prepared([volume], [RAS, crop, TWO_MM])
    assert grid.box == (slice(4, 13), slice(7, 21), slice(9, 26))
    assert grid.turn.undo(image).shape[1:] == (9, 14, 17)
    logits = torch.stack([torch.zeros(image.shape[1:]), image[0] - 0.5])
    np.testing.assert_array_equal(labels_on_source(logits, grid), voxels > 0.5)
    np.testing.assert_array_equal(nearest_on_source((image[0] > 0.5).to(torch.uint8), grid), voxels > 0.5)
    empty = volume_of(np.zeros((4, 4, 4), np.float32), np.eye(4))
    with pytest.raises(StudyUnsuitable, match="no voxel above"):
        prepared([empty], [RAS, crop, TWO_MM])


def test_an_axis_without_spacing_and_a_fixed_size_are_kept() -> None:
    volume = volume_of(np.random.default_rng(0).random((7, 30, 40)).astype(np.float32), np.diag([8.0, 0.5, 0.5, 1.0]))
    acquired = Orient(op="orient", axcodes="acquired")
    flat, grid = prepared([volume], [acquired, Resample(op="resample", spacing_mm=(1.0, 1.0, None))])
    assert flat.shape == (1, 20, 15, 7)
    assert grid.turn.order == (2, 1, 0)
    whole, _ = prepared([volume], [acquired, Resize(op="resize", size=(16, 24, 32))])
    assert whole.shape == (1, 16, 24, 32)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (ScaleRange(op="scale_range", a_min=0, a_max=10), [0.0, 0.5, 1.0]),
        (ScaleRange(op="scale_range", a_min=0, a_max=10, clip=False), [-1.0, 0.5, 2.0]),
        (ZScore(op="zscore"), [-1.2247, 0.0, 1.2247]),
        (ZScore(op="zscore", channels=(1,)), [-10.0, 5.0, 20.0]),
    ],
)
def test_values_are_changed_channel_by_channel(step: Preprocess, expected: list[float]) -> None:
    image = torch.tensor([-10.0, 5.0, 20.0]).reshape(1, 3, 1, 1)
    found = changed(torch.cat([image, image]), step)
    np.testing.assert_allclose(found[0].ravel(), expected, atol=1e-3)


def test_zeros_stay_zeros_where_only_the_rest_counts() -> None:
    image = torch.tensor([0.0, 0.0, 2.0, 4.0]).reshape(1, 4, 1, 1)
    assert changed(image, ZScore(op="zscore", nonzero=True)).ravel().tolist() == [0.0, 0.0, -1.0, 1.0]
    clipped = changed(image, ClipPercentile(op="clip_percentile", lower=50, upper=100, nonzero=True))
    assert clipped.ravel().tolist() == [3.0, 3.0, 3.0, 4.0]
    with pytest.raises(StudyUnsuitable, match="same value"):
        changed(torch.ones(1, 3, 1, 1), ZScore(op="zscore"))


def test_the_air_around_a_body_is_filled_and_the_air_within_is_kept() -> None:
    image = torch.full((9, 9, 2), -1000.0)
    image[1:8, 1:8] = 40.0
    image[3:6, 3:6] = -900.0  # a lung, open at both ends of the volume
    image[0, 0, 1] = -200.0  # a table at the slice's edge
    filled = changed(image[None], FillOutside(op="fill_outside", threshold=-400, value=5))[0]
    assert (filled[0] == 5).sum() == 17
    assert filled[0, 0, 1] == -200
    assert (filled[3:6, 3:6] == -900).all()
    assert (filled[1, 1:8] == 40).all()
    image[4, :4, 0] = -1000.0  # open to the side in the first slice: lost there, kept in the other
    filled = changed(image[None], FillOutside(op="fill_outside", threshold=-400, value=5))[0]
    assert (filled[3:6, 3:6, 0] == 5).all()
    assert (filled[3:6, 3:6, 1] == -900).all()


def test_percentiles_are_numpys_on_any_device() -> None:
    image = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    expected = np.percentile(image.numpy(), [0.5, 37.0, 99.5])
    np.testing.assert_allclose(percentiles(image, 0.5, 37.0, 99.5), expected, rtol=1e-6)
    ordered = sorted_percentiles(image, 0.5, 37.0, 99.5)
    np.testing.assert_allclose(ordered, expected, rtol=1e-5)


def test_each_slice_may_be_scaled_by_itself_and_an_even_one_shows_nothing() -> None:
    image = torch.zeros(1, 4, 5, 3)
    image[0, ..., 0] = torch.arange(20.0).reshape(4, 5)
    image[0, ..., 1] = 1000 * torch.arange(20.0).reshape(4, 5)
    image[0, ..., 2] = 7.0
    found = changed(image, Scale(op="scale", each_slice=True))
    assert [float(found[..., n].max()) for n in range(3)] == [1.0, 1.0, 0.0]
    assert float(changed(image, Scale(op="scale"))[..., 0].max()) < 0.01
    with pytest.raises(StudyUnsuitable, match="same value"):
        changed(torch.ones(1, 4, 5, 3), Scale(op="scale", each_slice=True))

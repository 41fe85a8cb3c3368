"""What a network's answer becomes: nested regions, candidates of known size and score, classes, numbers, holes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from appliance.errors import ResultRejected
from models.deciding import (
    candidates,
    decided,
    equivalent_diameter,
    fill_holes,
    joined,
    logit,
    probability_map,
    scaled,
)
from models.measure import beat_of, longest_diameter, measure
from models.operations import Orient, Resample, ToSourceGrid
from models.outputs import CineSegmentation, Classification, Detection, Regression, Segmentation
from models.package import Package
from models.reading import Reading
from models.transforms import network_grid
from tests.models.conftest import volume_of

CODE = {"value": "1", "meaning": "one"}
LINEAR, NEAREST = ToSourceGrid(op="to_source_grid"), ToSourceGrid(op="to_source_grid", method="nearest")
SPACING_MM = (2.0, 1.0, 1.0)
AFFINE = np.diag([*SPACING_MM, 1.0])
STEPS = [Orient(op="orient", axcodes="SAR"), Resample(op="resample", spacing_mm=(1, 1, 1))]


def segment(number: int, **more: object) -> dict[str, object]:
    return {"number": number, "name": f"s{number}", "category": CODE, "type": CODE, "rgb": [1, 2, 3], **more}


def grid_and_volume(shape: tuple[int, int, int] = (24, 48, 48)):
    volume = volume_of(np.zeros(shape, np.float32), AFFINE)
    return network_grid(volume, STEPS), volume


def ball(grid, centre: tuple[float, float, float], radius_mm: float) -> torch.Tensor:
    """Return the distance inside a ball (network axes, 1 mm); positive inside. `centre` is in mm along (k, j, i)."""
    axes = [torch.arange(size) + 0.5 for size in grid.size]
    k, j, i = torch.meshgrid(*axes, indexing="ij")
    inside = radius_mm - torch.sqrt((k - centre[0]) ** 2 + (j - centre[1]) ** 2 + (i - centre[2]) ** 2)
    return grid.turn.apply(inside)


@pytest.mark.parametrize("step", [LINEAR, NEAREST])
def test_of_nested_regions_the_last_wins(step: ToSourceGrid) -> None:
    grid, _ = grid_and_volume()
    outputs = Segmentation.model_validate(
        {"kind": "segmentation", "segments": [segment(1), segment(2)], "activation": "sigmoid", "threshold": 0.5}
    )
    logits = torch.stack([ball(grid, (24, 24, 24), 16), ball(grid, (24, 24, 24), 8)])
    labels = decided(logits, grid, outputs, step)
    for number, radius in ((2, 8), (1, 16)):
        volume_mm3 = (labels >= number).sum() * 2.0
        assert volume_mm3 == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.03)


def test_a_threshold_moves_the_edge() -> None:
    grid, _ = grid_and_volume()
    strict = Segmentation.model_validate(
        {"kind": "segmentation", "segments": [segment(1)], "activation": "sigmoid", "threshold": 0.9}
    )
    logits = ball(grid, (24, 24, 24), 12)[None]
    found = (decided(logits, grid, strict, LINEAR) == 1).sum() * 2.0
    assert found == pytest.approx(4 / 3 * math.pi * (12 - logit(0.9)) ** 3, rel=0.03)


def test_a_network_with_too_few_channels_makes_no_result() -> None:
    grid, _ = grid_and_volume()
    outputs = Segmentation.model_validate({"kind": "segmentation", "segments": [segment(1), segment(2)]})
    with pytest.raises(ResultRejected, match="2 channels, its outputs need 3"):
        decided(torch.zeros(2, 4, 4, 4), grid, outputs, LINEAR)


DETECTION = {
    "kind": "detection",
    "segments": [segment(1), segment(2, measure=["diameter", "volume"])],
    "candidates": {"segment": 2, "score": "peak", "min_score": 0.6, "min_diameter_mm": 6.0, "inside": 1},
}


def detected(plan: dict[str, object], nodules: list[tuple[tuple[float, float, float], float, float]]):
    """Return label map, scores and volume for balls (centre, radius, peak logit) within a lung that fills half."""
    grid, volume = grid_and_volume((40, 80, 80))
    logits = torch.full((3, *grid.turn.apply(torch.zeros(grid.size)).shape), -8.0)
    lung = torch.zeros(grid.size)
    lung[:60] = 1
    logits[1] = torch.where(grid.turn.apply(lung) > 0, 4.0, -8.0)
    logits[0] = torch.where(grid.turn.apply(lung) > 0, -8.0, 4.0)
    for centre, radius, peak in nodules:
        inside = ball(grid, centre, radius)
        logits[2] = torch.where(inside > -2, 4.0 + inside.clamp(-3, 1) * peak, logits[2])
    outputs = Detection.model_validate(plan)
    labels = decided(logits, grid, outputs, LINEAR)
    return (*candidates(labels, logits, grid, outputs, volume), volume, outputs)


def test_each_candidate_is_a_label_of_its_own_the_best_first_and_its_volume_is_that_of_the_ball() -> None:
    labels, scores, volume, _ = detected(DETECTION, [((20, 20, 20), 6.0, 1.0), ((40, 60, 60), 8.0, 3.0)])
    assert len(scores) == 2
    assert scores[0] > scores[1] > 0.6
    for label, radius in ((3, 8.0), (4, 6.0)):
        assert int((labels == label).sum()) * volume.voxel_ml * 1000 == pytest.approx(
            4 / 3 * math.pi * radius**3, rel=0.08
        )
        assert longest_diameter(labels == label, volume) == pytest.approx(2 * radius, abs=1.5)
    assert set(np.unique(labels)) == {0, 1, 3, 4}


def test_candidates_that_are_small_unsure_or_outside_are_none() -> None:
    small, outside = ((20, 20, 20), 2.0, 3.0), ((72, 40, 40), 5.0, 3.0)
    assert detected(DETECTION, [small, outside])[1] == ()
    strict = DETECTION | {"candidates": {**DETECTION["candidates"], "min_score": 0.9999}}
    assert detected(strict, [((20, 20, 20), 6.0, 0.5)])[1] == ()
    few = DETECTION | {"candidates": {**DETECTION["candidates"], "max_count": 1}}
    assert len(detected(few, [((20, 20, 20), 6.0, 1.0), ((40, 60, 60), 8.0, 3.0)])[1]) == 1


def test_equivalent_diameter_is_that_of_a_sphere() -> None:
    assert equivalent_diameter(4 / 3 * math.pi * 0.5**3) == pytest.approx(10.0)


def classes(**more: object) -> Classification:
    named = [{"name": name, "code": CODE} for name in ("no", "yes")]
    return Classification.model_validate(
        {"kind": "classification", "classes": named, "positive": 1, "threshold": 0.5, **more}
    )


def test_the_worst_slice_speaks_for_the_study_or_the_mean_does() -> None:
    rows = torch.tensor([[3.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    worst, mean = joined(rows, classes())[1], joined(rows, classes(join_slices="mean"))[1]
    assert worst == pytest.approx(1 / (1 + math.exp(-2)))
    assert mean < worst
    assert joined(torch.tensor([[2.0]]), classes(activation="sigmoid"))[1] == pytest.approx(1 / (1 + math.exp(-2)))
    with pytest.raises(ResultRejected, match="3 classes"):
        joined(torch.zeros(1, 3), classes())


def test_a_number_outside_of_what_can_be_makes_no_result() -> None:
    outputs = Regression.model_validate(
        {
            "kind": "regression",
            "values": [{"name": CODE, "unit": CODE, "factor": 10.0, "lowest": 0.0, "highest": 100.0}],
        }
    )
    assert scaled(torch.tensor([[5.0]]), outputs) == (50.0,)
    with pytest.raises(ResultRejected, match="which cannot be"):
        scaled(torch.tensor([[11.0]]), outputs)


def test_only_what_is_enclosed_is_filled_and_only_with_background() -> None:
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:8, 1:8, 1:8] = 1
    labels[3:6, 3:6, 3:6] = 0
    labels[4, 4, 4] = 2
    filled = fill_holes(labels, (1,))
    assert (filled == 1).sum() == 7**3 - 1
    assert filled[4, 4, 4] == 2
    assert filled[0, 0, 0] == 0


def test_a_beat_has_its_volumes_and_ejection_fraction(shipped: Package) -> None:
    outputs = CineSegmentation.model_validate({"kind": "cine_segmentation", "segments": [segment(1)], "cavity": 1})
    maps, volumes = [], []
    for count in (100, 40, 70):
        labels = np.zeros((4, 10, 10), np.uint8)
        labels.flat[:count] = 1
        maps.append(labels)
        volumes.append(volume_of(labels.astype(np.float32), np.diag([10.0, 1.0, 1.0, 1.0])))
    package = Package(shipped.folder, shipped.manifest.model_copy(update={"outputs": outputs}), "")
    (cavity,) = measure(Reading(tuple(maps)), volumes, package)
    values = {one.name.meaning: one.value for one in cavity.measurements}
    assert values == pytest.approx(
        {
            "Left Ventricular End Diastolic Volume": 1.0,
            "Left Ventricular End Systolic Volume": 0.4,
            "Stroke Volume": 0.6,
            "Cardiac ejection fraction": 60.0,
        }
    )
    assert [ml for _, ml in cavity.curve] == pytest.approx([1.0, 0.4, 0.7])


@pytest.mark.parametrize(("activation", "channel"), [("sigmoid", 1), ("softmax", 2)])
def test_a_probability_map_says_how_sure_the_network_was_and_only_where(activation: str, channel: int) -> None:
    grid, _ = grid_and_volume()
    outputs = Segmentation.model_validate(
        {"kind": "segmentation", "segments": [segment(1), segment(2)], "activation": activation}
    )
    sure = ball(grid, (24, 24, 24), 10)
    logits = torch.full((2 if activation == "sigmoid" else 3, *sure.shape), -20.0)
    logits[channel] = torch.where(sure > 0, math.log(4.0), -20.0)  # 80 % where the ball is
    if activation == "softmax":
        logits[0] = 0.0
    found = probability_map(logits, grid, outputs, 2)
    assert found.shape == (24, 48, 48)
    assert found[12, 24, 24] == 204
    assert not found[:5].any()
    assert not found[12, :10].any()


def test_an_empty_heart_makes_no_result(shipped: Package) -> None:
    outputs = CineSegmentation.model_validate({"kind": "cine_segmentation", "segments": [segment(1)], "cavity": 1})
    package = Package(shipped.folder, shipped.manifest.model_copy(update={"outputs": outputs}), "")
    empty = np.zeros((4, 5, 5), np.uint8)
    with pytest.raises(ResultRejected, match="no cavity"):
        measure(Reading((empty,)), [volume_of(empty, np.eye(4))], package)


def test_each_side_is_a_finding_of_its_own(shipped: Package) -> None:
    labels = np.zeros((4, 10, 10), np.uint8)
    labels[0], labels[2] = 1, 8  # the first segment of each of two regions
    volume = volume_of(labels.astype(np.float32), np.diag([5.0, 5.0, 5.0, 1.0]))
    found = measure(Reading((labels,), regions=("left", "right")), [volume], shipped)
    assert [(one.name, one.laterality.meaning) for one in found if one.laterality] == [
        ("Left cerebral cortex", "Left"),
        ("Right cerebral cortex", "Right"),
    ]


def test_one_phase_without_a_cavity_makes_no_ejection_fraction() -> None:
    outputs = CineSegmentation.model_validate({"kind": "cine_segmentation", "segments": [segment(1)], "cavity": 1})
    maps = [np.ones((2, 4, 4), np.uint8) for _ in range(4)]
    maps[2][:] = 0
    volumes = [volume_of(one.astype(np.float32), np.diag([10.0, 10.0, 10.0, 1.0])) for one in maps]
    with pytest.raises(ResultRejected, match="no cavity was found in phase 3 of 4"):
        beat_of(maps, volumes, outputs)

"""Volumes agree with a phantom whose volume is known, and nothing is dropped in silence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from appliance.errors import ResultRejected
from appliance.finding import Finding
from appliance.volume import Volume
from models.deciding import without_tiny
from models.measure import measure
from models.package import Package
from models.reading import Reading
from tests.models.conftest import volume_of

SPACING_MM = (2.5, 0.9, 0.8)


def ball(radius_mm: float) -> np.ndarray:
    """Return a ball (k, j, i) in the middle of a grid with SPACING_MM."""
    axes = [(np.arange(size) - size / 2) * step for size, step in zip((40, 90, 100), SPACING_MM, strict=True)]
    k, j, i = np.meshgrid(*axes, indexing="ij")
    return (k**2 + j**2 + i**2) < radius_mm**2


def found_in(labels: np.ndarray, volume: Volume, package: Package) -> tuple[Finding, ...]:
    """Return the findings of one label map."""
    return measure(Reading((labels,)), [volume], package)


def sheared() -> np.ndarray:
    """Return an affine with SPACING_MM whose axes are turned, so that its determinant counts."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(SPACING_MM)
    return affine


def test_the_volume_of_a_ball_is_that_of_the_formula(shipped: Package) -> None:
    labels = ball(30.0).astype(np.uint8) * 5
    labels[ball(20.0)] = 2
    volume = volume_of(labels.astype(np.float32), sheared())
    found = {finding.segment_number: finding for finding in found_in(labels, volume, shipped)}
    assert list(found) == [2, 5]
    inner, outer = (4 / 3 * math.pi * radius**3 for radius in (2.0, 3.0))
    assert found[2].measurements[0].value == pytest.approx(inner, rel=0.01)
    assert found[5].measurements[0].value == pytest.approx(outer - inner, rel=0.01)
    assert found[2].voxels == int((labels == 2).sum())


def test_a_finding_carries_the_codes_of_its_segment(shipped: Package) -> None:
    labels = ball(20.0).astype(np.uint8) * 7
    (found,) = found_in(labels, volume_of(labels, sheared()), shipped)
    assert (found.name, found.code.value, found.code.scheme) == ("Brain stem", "119238007", "SCT")
    assert (found.category.value, found.measurements[0].unit.value) == ("91723000", "ml")


def test_less_than_the_least_volume_is_no_finding_and_leaves_no_voxel(shipped: Package) -> None:
    labels = np.zeros((40, 90, 100), np.uint8)
    volume = volume_of(labels, sheared())
    segments = shipped.manifest.outputs.segments
    least = segments[0].min_volume_ml
    labels[0].flat[: int(least / volume.voxel_ml)] = 1
    assert not without_tiny(labels, segments, volume.voxel_ml).any()
    labels[0].flat[: int(least / volume.voxel_ml) + 1] = 1
    assert len(found_in(without_tiny(labels, segments, volume.voxel_ml), volume, shipped)) == 1


def test_an_empty_label_map_has_no_findings(shipped: Package) -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    assert found_in(labels, volume_of(labels, np.eye(4)), shipped) == ()


def test_a_number_or_a_grid_that_is_not_the_packages_is_rejected(shipped: Package) -> None:
    labels = np.full((4, 5, 6), 8, np.uint8)
    with pytest.raises(ResultRejected, match=r"\[8\]"):
        found_in(labels, volume_of(labels, np.eye(4)), shipped)
    with pytest.raises(ResultRejected, match="shape"):
        found_in(labels, volume_of(labels[:3], np.eye(4)), shipped)

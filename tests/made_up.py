"""Findings and contexts for tests of the result writers: what a model would say, made up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from appliance.finding import ML, VOLUME, Code, Finding, Measurement
from appliance.job import ObjectReference, ResultContext
from appliance.volume import Volume
from dicom_nodes.result_classes import COMPREHENSIVE_3D_SR
from dicom_nodes.source import SourceHeaders
from dicom_nodes.volume_reader import read_series
from tests import phantoms
from tests.phantoms import Phantom

LabelMap = npt.NDArray[np.uint8]
ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
OLD_REPORT = ObjectReference(COMPREHENSIVE_3D_SR, "2.25.1914", "2.25.1915", "2.25.1916")
KINDS = (
    ("Brain", Code("12738006", "SCT", "Brain"), None),
    ("Right ventricle", Code("66720007", "SCT", "Lateral ventricle"), Code("24028007", "SCT", "Right")),
    ("Left ventricle", Code("66720007", "SCT", "Lateral ventricle"), None),
)


def context(**changed: Any) -> ResultContext:
    """Return a context of which some fields are changed."""
    fields: dict[str, Any] = {
        "appliance_name": "st-elsewhere",
        "appliance_uid": "2.25.191407",
        "software_version": "0.1.0",
        "job_id": "0b9ddd8a-9ff7-5d4e-8d65-1914c0de1914",
        "package": "brain-structures",
        "package_version": "1.0.0",
        "package_digest": "ab" * 32,
        "title": "Brain structures",
        "engine": "openvino",
        "precision": "f32",
        "made_at": datetime(2024, 3, 1, 12, 30, 5),
    }
    return ResultContext(**(fields | changed))


def findings(made: ResultContext, count: int = 3) -> list[Finding]:
    """Return findings numbered from 1, each with a volume in ml."""
    found = []
    for n in range(1, count + 1):
        name, code, site = KINDS[(n - 1) % len(KINDS)]
        measured = (Measurement(VOLUME, 12.25 + n, ML),)
        colour = (250, 40 * n % 256, 10)
        found.append(Finding(n, name, ANATOMY, code, site, colour, measured, made.uid("tracking", n), n))
    return found


def blobs(shape: tuple[int, int, int], count: int) -> LabelMap:
    """Return nested shells of an ellipsoid, labels 1 … count."""
    k, j, i = np.meshgrid(*(np.linspace(1 / n - 1, 1 - 1 / n, n) for n in shape), indexing="ij")
    radius = np.sqrt(k**2 + j**2 + (i * 1.1) ** 2)
    labels = np.zeros(shape, np.uint8)
    for n in range(count):
        labels[radius < 0.85 * (1 - n / (count + 1))] = n + 1
    return labels


def read_phantom(
    folder: Path, phantom: Phantom | None = None, images: Sequence[Dataset] | None = None
) -> tuple[LabelMap, Volume, SourceHeaders]:
    """Write and read a phantom series; return its true labels, volume and source."""
    phantom = phantom or Phantom()
    volume, source = read_series(phantoms.write_series(folder, images or phantoms.series(phantom)))
    return phantoms.label_map(phantom), volume, source


def label_map_of(segmentation: Dataset, volume: Volume) -> LabelMap:
    """Return the label map (k, j, i) that a Segmentation's frames hold, placed by their positions in the patient."""
    found = np.zeros(volume.shape, np.uint8)
    to_index = np.linalg.inv(volume.affine)
    for mask, item in zip(segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        k, j, i, _ = to_index @ [*(float(x) for x in item.PlanePositionSequence[0].ImagePositionPatient), 1]
        assert max(abs(k - round(k)), abs(j), abs(i)) < 1e-3, "a frame lies off the grid"
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[round(k)][mask > 0] = number
    return found

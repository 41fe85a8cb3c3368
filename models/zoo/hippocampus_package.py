"""What the package `hippocampus` declares, and its card. It must never state a figure nobody measured."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from models.zoo.brain_structures_package import ENHANCED_MR_IMAGE, MR_IMAGE, STRUCTURE

HIPPOCAMPUS = {"value": "5366008", "meaning": "Hippocampus"}
SEGMENTS = (
    (1, "Anterior hippocampus", "e0a030"),
    (2, "Posterior hippocampus", "3070d0"),
)
LOCATOR = "brain-structures@0.3.1"

INTENDED_USE = (
    "Shows the anterior and the posterior part of the hippocampi and their volumes on T1-weighted MR of a head, or on "
    "a crop around one hippocampus, to try the appliance and to teach. Not for diagnosis, nor any decision."
)
LIMITS = (
    "Learned from crops of 180 T1-weighted heads of one hospital. In a whole head the place to look is taken from the "
    "bounding box of what brain-structures calls cerebrum, which is coarse; a hippocampus outside of it is missed. Not "
    "tested on children, tumours, operated heads or other contrasts than T1. Where head and tail end was the "
    "labellers' convention; left and right are told apart by the side of the box alone."
)


def requirement() -> dict[str, Any]:
    """Return which series fit: T1-weighted MR in thin slices, a whole head or a crop."""
    return {
        "modality": "MR",
        "sop_class_uids": [MR_IMAGE, ENHANCED_MR_IMAGE],
        "min_slices": 20,
        "max_slices": 1024,
        "slice_spacing_mm": [0.3, 2.0],
        "pixel_spacing_mm": [0.3, 1.6],
        "min_extent_mm": 22.0,
        "exclude_image_types": ["LOCALIZER", "PROJECTION IMAGE", "MIP", "ADC", "SUBTRACTION"],
        "prefer": [
            {"keyword": "SeriesDescription", "pattern": "hippo", "score": 3},
            {"keyword": "SeriesDescription", "pattern": "mprage|mp-rage|bravo|spgr|tfe|vibe"},
            {"keyword": "SeriesDescription", "pattern": "t1"},
            {"keyword": "MRAcquisitionType", "pattern": "3D"},
        ],
    }


def regions() -> list[dict[str, Any]]:
    """Return where the hippocampi lie in the cerebrum's box, as shares of it from left, behind and below.

    In the 20 label maps that brain-structures learns from they reach from 0.16 to 0.43 (left) or 0.56 to 0.86 (right),
    from 0.31 to 0.70 and from 0.04 to 0.44; a margin is added.
    """
    return [
        {"name": "left", "low": [0.12, 0.27, 0.01], "high": [0.46, 0.74, 0.47]},
        {"name": "right", "low": [0.54, 0.27, 0.01], "high": [0.88, 0.74, 0.47]},
    ]


def declaration(version: str, architecture: tuple[str, dict[str, Any]], roi: tuple[int, ...]) -> dict[str, Any]:
    """Return the content of package.json."""
    name, kwargs = architecture
    segments = [
        {
            "number": number,
            "name": title,
            "category": STRUCTURE,
            "type": HIPPOCAMPUS,
            "rgb": list(bytes.fromhex(colour)),
            "min_volume_ml": 0.05,
        }
        for number, title, colour in SEGMENTS
    ]
    return {
        "schema_version": 1,
        "id": "hippocampus",
        "version": version,
        "title": "AI hippocampus, not clinical",
        "pathway": "neurology",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": {},
        "licence": "CC-BY-SA-4.0",
        "publisher": "Petite Curie",
        "architecture": {"name": name, "kwargs": kwargs},
        "inputs": [{"name": "t1", "requirement": requirement()}],
        "locator": {
            "package": LOCATOR,
            "segments": [1, 2, 5, 6],
            "min_volume_ml": 300.0,
            "above_extent_mm": 90.0,
            "regions": regions(),
        },
        "preprocess": [
            {"op": "orient", "axcodes": "RAS"},
            {"op": "resample", "spacing_mm": [1.0, 1.0, 1.0]},
            {"op": "clip_percentile", "lower": 0.5, "upper": 99.5},
            {"op": "scale", "lowest": 0.0, "highest": 1.0},
        ],
        "inference": {"mode": "sliding_window", "roi": list(roi), "overlap": 0.25, "blend": "gaussian", "batch": 2},
        "outputs": {"kind": "segmentation", "segments": segments},
        "postprocess": [
            {"op": "to_source_grid", "method": "linear_logits"},
            {"op": "largest_component", "segments": [1, 2]},
        ],
        "precision": {"allowed": ["f32", "f16"]},
        "resources": {"memory_mb": 1500, "timeout_s": 300},
        "report": {"template": "TID1500", "key_slice": "largest_area"},
        "intended_use": INTENDED_USE,
        "limits": LIMITS,
        "not_for_clinical_use": True,
    }


CARD = (
    """# hippocampus {version}

**Not for clinical use.** """
    + INTENDED_USE
    + """

## What it is
A thin 3-D U-Net ({parameters:,} parameters) that labels anterior and posterior hippocampus at 1 mm in a crop. In a
whole head, brain-structures runs first, and two boxes laid relative to the cerebrum are read, one a side.

## What it learned from
180 of the 220 labelled crops of the Medical Segmentation Decathlon, Task04 (Vanderbilt University Medical Center;
Simpson et al. 2019; CC BY-SA 4.0, hence the licence of these weights), varied by rotation, scaling, mirroring, gamma,
bias field and noise; one sample in ten of the second training was a made-up crop instead.
Recipe: `models/zoo/hippocampus.py`.

## Training
{training}

## Figures
{figures}

## Limits
"""
    + LIMITS
    + "\n"
)

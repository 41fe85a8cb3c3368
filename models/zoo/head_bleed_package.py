"""What the package `head-bleed` declares, and its card. It must never state a figure nobody measured."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from models.zoo.lung_nodule_package import CT_IMAGE, ENHANCED_CT_IMAGE

BLEED = {"value": "1386000", "meaning": "Intracranial hemorrhage"}
NONE = {"value": "260385009", "meaning": "Negative"}
HEAD = {"value": "69536005", "meaning": "Head"}

INTENDED_USE = (
    "Gives a probability of fresh blood in head CT on the urgent route, to try the appliance and to teach how a "
    "classifier with an operating point is reported. Not for triage of patients, not for diagnosis."
)
LIMITS = (
    "Learned from made-up slices of heads alone; never tried on a patient. The slice with the highest probability "
    "speaks for the study. Chalk, metal, motion, contrast medium and thick bone at the base may be taken for blood."
)


def requirement() -> dict[str, Any]:
    """Return which series fit: CT of a head, near axial."""
    return {
        "modality": "CT",
        "sop_class_uids": [CT_IMAGE, ENHANCED_CT_IMAGE],
        "min_slices": 12,
        "max_slices": 512,
        "slice_spacing_mm": [0.4, 8.0],
        "pixel_spacing_mm": [0.3, 1.0],
        "min_extent_mm": 80.0,
        "max_extent_mm": 350.0,
        "exclude_image_types": ["LOCALIZER", "MIP", "MPR"],
        "require": [{"keyword": "ContrastBolusAgent", "absent": True}],
        "prefer": [{"keyword": "SeriesDescription", "pattern": "brain|head|soft|h[3-4]"}],
    }


def declaration(version: str, architecture: tuple[str, dict[str, Any]], roi: tuple[int, ...]) -> dict[str, Any]:
    """Return the content of package.json."""
    name, kwargs = architecture
    return {
        "schema_version": 1,
        "id": "head-bleed",
        "version": version,
        "title": "AI head bleed, not clinical",
        "pathway": "triage",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": {},
        "licence": "Apache-2.0",
        "publisher": "Petite Curie",
        "architecture": {"name": name, "kwargs": kwargs},
        "inputs": [{"name": "head", "requirement": requirement()}],
        "preprocess": [
            {"op": "orient", "axcodes": "RAS"},
            {"op": "resample", "spacing_mm": [2.5, 2.5, None]},
            {"op": "scale_range", "a_min": 0.0, "a_max": 100.0, "b_min": 0.0, "b_max": 1.0, "clip": True},
        ],
        "inference": {"mode": "slices", "roi": list(roi), "batch": 16},
        "outputs": {
            "kind": "classification",
            "classes": [{"name": "No fresh blood", "code": NONE}, {"name": "Intracranial hemorrhage", "code": BLEED}],
            "positive": 1,
            "threshold": 0.9,
            "join_slices": "largest",
            "site": HEAD,
        },
        "postprocess": [],
        "precision": {"allowed": ["f32", "f16"]},
        "resources": {"memory_mb": 1000, "timeout_s": 120},
        "report": {"template": "TID1500", "key_slice": "largest_area"},
        "intended_use": INTENDED_USE,
        "limits": LIMITS,
        "not_for_clinical_use": True,
    }


CARD = (
    """# head-bleed {version}

**Not for clinical use.** """
    + INTENDED_USE
    + """

## What it is
A small 2-D classifier ({parameters:,} parameters) over every slice at 2.5 mm. The slice with the highest probability
speaks; 0.9 or more is reported as present.

## What it learned from
Made-up slices (`models/zoo/head_bleed.py`): bone, brain, ventricles, chalk, and blood in the brain or as a crescent.

## Training
{training}

## Figures
{figures}

## Limits
"""
    + LIMITS
    + "\n"
)

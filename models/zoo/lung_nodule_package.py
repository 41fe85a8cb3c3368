"""What the package `lung-nodule` declares, and its card. It must never state a figure nobody measured."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from models.zoo.brain_structures_package import STRUCTURE

CT_IMAGE, ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
ABNORMAL = {"value": "49755003", "meaning": "Morphologically Abnormal Structure"}  # CID 7150
LUNG = {"value": "39607008", "meaning": "Lung"}
NODULE = {"value": "27925004", "meaning": "Nodule"}
FILL_OUTSIDE = {"op": "fill_outside", "threshold": -400.0, "value": 0.0}  # HU: the air around the body

INTENDED_USE = (
    "Shows the lungs and candidates for nodules with a score, diameter and volume in chest CT, to try the appliance "
    "and to teach. Not for screening, not for diagnosis, not for any decision about a patient."
)
LIMITS = (
    "Learned from made-up nodules alone, half of them in one real left lung. Vessels, scars, fluid and the hilum may "
    "be taken for nodules, and nodules under 5 mm, of ground glass or beside the wall may be missed. The score is no "
    "probability of cancer. A lung that the field of view cuts is taken for air around the body. "
    "Works at 2 mm. One real case was looked at; no sensitivity is known."
)


def requirement() -> dict[str, Any]:
    """Return which series fit: CT of a chest in slices of at most 3.5 mm."""
    return {
        "modality": "CT",
        "sop_class_uids": [CT_IMAGE, ENHANCED_CT_IMAGE],
        "min_slices": 40,
        "max_slices": 2048,
        "slice_spacing_mm": [0.3, 3.5],
        "pixel_spacing_mm": [0.3, 1.2],
        "min_extent_mm": 120.0,
        "exclude_image_types": ["LOCALIZER", "MIP", "MPR", "PROJECTION IMAGE", "SECONDARY CAPTURE"],
        "prefer": [
            {"keyword": "SeriesDescription", "pattern": "lung|lunge|thorax|chest"},
            {"keyword": "ConvolutionKernel", "pattern": "^(B[3-4]|I[3-4]|STANDARD|FC0)", "score": 0.5},
        ],
    }


def declaration(version: str, architecture: tuple[str, dict[str, Any]], roi: tuple[int, ...]) -> dict[str, Any]:
    """Return the content of package.json."""
    name, kwargs = architecture
    return {
        "schema_version": 1,
        "id": "lung-nodule",
        "version": version,
        "title": "AI lung nodules, not clinical",
        "pathway": "oncology",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": {},
        "licence": "Apache-2.0",
        "publisher": "Petite Curie",
        "architecture": {"name": name, "kwargs": kwargs},
        "inputs": [{"name": "chest", "requirement": requirement()}],
        "preprocess": [
            {"op": "orient", "axcodes": "RAS"},
            {"op": "resample", "spacing_mm": [2.0, 2.0, 2.0]},
            FILL_OUTSIDE,
            {"op": "scale_range", "a_min": -1000.0, "a_max": 400.0, "b_min": 0.0, "b_max": 1.0, "clip": True},
        ],
        "inference": {"mode": "sliding_window", "roi": list(roi), "overlap": 0.25, "blend": "gaussian", "batch": 4},
        "outputs": {
            "kind": "detection",
            "segments": [
                {
                    "number": 1,
                    "name": "Lungs",
                    "category": STRUCTURE,
                    "type": LUNG,
                    "rgb": [120, 180, 220],
                    "min_volume_ml": 200.0,
                },
                {
                    "number": 2,
                    "name": "Lung nodule",
                    "category": ABNORMAL,
                    "type": NODULE,
                    "site": LUNG,
                    "rgb": [240, 80, 60],
                    "measure": ["diameter", "volume", "mean"],
                },
            ],
            "candidates": {
                "segment": 2,
                "threshold": 0.5,
                "score": "mean",
                "min_score": 0.6,
                "min_diameter_mm": 5.0,
                "max_diameter_mm": 60.0,
                "inside": 1,
                "max_count": 10,
            },
        },
        "postprocess": [
            {"op": "to_source_grid", "method": "linear_logits"},
            {"op": "remove_small", "segments": [1], "min_volume_ml": 300.0},
        ],
        "precision": {"allowed": ["f32", "f16"]},
        "resources": {"memory_mb": 3000, "timeout_s": 900},
        "report": {"template": "TID1500", "key_slice": "largest_area"},
        "intended_use": INTENDED_USE,
        "limits": LIMITS,
        "not_for_clinical_use": True,
    }


CARD = (
    """# lung-nodule {version}

**Not for clinical use.** """
    + INTENDED_USE
    + """

## What it is
A thin 3-D U-Net ({parameters:,} parameters) at 2 mm that tells lung and nodule from the rest. Each connected part of
nodule that touches lung is a candidate; its score is the mean probability within it.

## What it learned from
Made-up chests with made-up nodules of 5 to 36 mm (`models/zoo/lung_nodule.py`), and the same nodules set into the left
lung of one CT of TCIA CPTAC-LUAD case C3N-00247 (CC BY). Its right lung, with the real mass, was not trained on.

## Training
{training}

## Figures
{figures}

## Limits
"""
    + LIMITS
    + "\n"
)

"""What the package `cardiac-lv` declares, and its card. It must never state a figure nobody measured."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from models.zoo.brain_structures_package import ENHANCED_MR_IMAGE, MR_IMAGE, STRUCTURE

SEGMENTS = (
    (1, "Left ventricular cavity", {"value": "87878005", "meaning": "Left ventricle"}, "d03030"),
    (2, "Left ventricular muscle", {"value": "49848007", "meaning": "Left ventricle myocardium"}, "e0c060"),
)

INTENDED_USE = (
    "Shows cavity and muscle of the left ventricle in short-axis cine MR, volumes over the beat and ejection fraction, "
    "to try the appliance and to teach. Not for diagnosis, not for any decision about a patient."
)
LIMITS = (
    "Learned from made-up rings and the expert contours of one study of one patient with heart failure on one scanner. "
    "Whether a slice at the base still belongs to the ventricle is guessed slice by slice: volumes there may be wrong. "
    "Long-axis planes, congenital hearts, arrhythmia and other sequences than balanced steady-state are not validated. "
    "End-diastole and end-systole are the moments of the largest and smallest cavity."
)


def requirement() -> dict[str, Any]:
    """Return which series fit: cine MR in several slices, each with the same number of images over a beat."""
    return {
        "modality": "MR",
        "sop_class_uids": [MR_IMAGE, ENHANCED_MR_IMAGE],
        "min_slices": 6,
        "max_slices": 40,
        "slice_spacing_mm": [4.0, 14.0],
        "pixel_spacing_mm": [0.6, 2.5],
        "min_extent_mm": 40.0,
        "volumes": "all",
        "min_volumes": 10,
        "prefer": [
            {"keyword": "SeriesDescription", "pattern": "sax|short.?axis|kurzachse|\\bsa\\b", "score": 2},
            {"keyword": "ScanOptions", "pattern": "CG|CT|FC"},
        ],
    }


def declaration(version: str, architecture: tuple[str, dict[str, Any]], roi: tuple[int, ...]) -> dict[str, Any]:
    """Return the content of package.json."""
    name, kwargs = architecture
    segments = [
        {
            "number": number,
            "name": title,
            "category": STRUCTURE,
            "type": code,
            "rgb": list(bytes.fromhex(colour)),
        }
        for number, title, code, colour in SEGMENTS
    ]
    return {
        "schema_version": 1,
        "id": "cardiac-lv",
        "version": version,
        "title": "AI left ventricle, not clinical",
        "pathway": "cardiology",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": {},
        "licence": "Apache-2.0",
        "publisher": "Petite Curie",
        "architecture": {"name": name, "kwargs": kwargs},
        "inputs": [{"name": "cine", "requirement": requirement()}],
        "preprocess": [
            {"op": "orient", "axcodes": "acquired"},
            {"op": "resample", "spacing_mm": [1.5, 1.5, None]},
            {"op": "clip_percentile", "lower": 0.5, "upper": 99.5, "each_slice": True},
            {"op": "scale", "lowest": 0.0, "highest": 1.0, "each_slice": True},
        ],
        "inference": {"mode": "slices", "roi": list(roi), "overlap": 0.5, "blend": "gaussian", "batch": 8},
        "outputs": {"kind": "cine_segmentation", "segments": segments, "cavity": 1},
        "postprocess": [
            {"op": "to_source_grid", "method": "linear_logits"},
            {"op": "largest_component", "segments": [1]},
            {"op": "fill_holes", "segments": [1]},
            {"op": "largest_component", "segments": [1, 2]},
        ],
        "precision": {"allowed": ["f32", "f16"]},
        "resources": {"memory_mb": 1500, "timeout_s": 600},
        "report": {"template": "TID1500", "key_slice": "largest_area"},
        "intended_use": INTENDED_USE,
        "limits": LIMITS,
        "not_for_clinical_use": True,
    }


CARD = (
    """# cardiac-lv {version}

**Not for clinical use.** """
    + INTENDED_USE
    + """

## What it is
A thin 2-D U-Net ({parameters:,} parameters) over every short-axis slice of every moment: left-ventricular cavity and
muscle at 1.5 mm. Volumes are sums of slices; ejection fraction is of the largest and the smallest cavity of the beat.

## What it learned from
Half of the samples are phantoms (`phantom` in `models/zoo/cardiac_lv.py`), half are variants of the outlined slices of
study SC-HF-I-1 of the Sunnybrook Cardiac Data (CC0; Radau et al. 2009). Study SC-HF-I-2 was held back.

## Training
{training}

## Figures
{figures}

## Limits
"""
    + LIMITS
    + "\n"
)

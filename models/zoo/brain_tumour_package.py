"""What the package `brain-tumour` declares, and its card. It must never state a figure nobody measured."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from models.zoo.brain_structures_package import ENHANCED_MR_IMAGE, MR_IMAGE
from models.zoo.lung_nodule_package import ABNORMAL

BRAIN = {"value": "12738006", "meaning": "Brain"}
SEGMENTS = ((1, "Tumor with edema", {"value": "108369006", "meaning": "Neoplasm"}, "e04040"),)

INTENDED_USE = (
    "Shows how a package reads several series together (T1 after contrast, FLAIR, T2), and what it takes for a "
    "tumor with its edema. To try the appliance and to teach; not for any decision about a patient."
)
LIMITS = (
    "Learned from made-up tumors in made-up heads; never tried against an expert on a patient. Vessels, bone marrow, "
    "choroid plexus and fat may be taken for enhancing tumor. Operated heads and several tumors are not validated."
)


def requirement(*conditions: dict[str, Any], prefer: str) -> dict[str, Any]:
    """Return which series fit one input: MR of a head with these conditions."""
    return {
        "modality": "MR",
        "sop_class_uids": [MR_IMAGE, ENHANCED_MR_IMAGE],
        "min_slices": 15,
        "max_slices": 512,
        "slice_spacing_mm": [0.5, 7.5],
        "pixel_spacing_mm": [0.3, 1.5],
        "min_extent_mm": 90.0,
        "exclude_image_types": ["LOCALIZER", "PROJECTION IMAGE", "MIP", "ADC", "SUBTRACTION", "DERIVED"],
        "require": list(conditions),
        "prefer": [{"keyword": "SeriesDescription", "pattern": prefer}],
    }


def inputs() -> list[dict[str, Any]]:
    """Return the three inputs: what tells them apart are times and contrast agent, not their names."""
    short_echo = {"keyword": "EchoTime", "max": 30.0}
    long_echo = {"keyword": "EchoTime", "min": 60.0}
    agent = {"keyword": "ContrastBolusAgent", "present": True}
    inverted = {"keyword": "InversionTime", "min": 1500.0}
    plain = {"keyword": "InversionTime", "absent": True}
    slow = {"keyword": "RepetitionTime", "min": 1500.0}
    return [
        {"name": "t1-post", "requirement": requirement(short_echo, agent, prefer="t1|post|gd|contrast")},
        {"name": "flair", "requirement": requirement(long_echo, inverted, prefer="flair")},
        {"name": "t2", "requirement": requirement(long_echo, slow, plain, prefer="t2")},
    ]


def declaration(version: str, architecture: tuple[str, dict[str, Any]], roi: tuple[int, ...]) -> dict[str, Any]:
    """Return the content of package.json."""
    name, kwargs = architecture
    segments = [
        {
            "number": number,
            "name": title,
            "category": ABNORMAL,
            "type": code,
            "site": BRAIN,
            "rgb": list(bytes.fromhex(colour)),
            "min_volume_ml": 0.3,
        }
        for number, title, code, colour in SEGMENTS
    ]
    return {
        "schema_version": 1,
        "id": "brain-tumour",
        "version": version,
        "title": "AI brain tumor, not clinical",
        "pathway": "oncology",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": {},
        "licence": "Apache-2.0",
        "publisher": "Petite Curie",
        "architecture": {"name": name, "kwargs": kwargs},
        "inputs": inputs(),
        "preprocess": [
            {"op": "orient", "axcodes": "RAS"},
            {"op": "resample", "spacing_mm": [2.0, 2.0, 2.0]},
            {"op": "clip_percentile", "lower": 0.0, "upper": 99.8},
            {"op": "zscore", "nonzero": True},
        ],
        "inference": {"mode": "sliding_window", "roi": list(roi), "overlap": 0.25, "blend": "gaussian", "batch": 2},
        "outputs": {"kind": "segmentation", "segments": segments},
        "postprocess": [
            {"op": "to_source_grid", "method": "linear_logits"},
            {"op": "largest_component", "segments": [1]},
        ],
        "precision": {"allowed": ["f32", "f16"]},
        "resources": {"memory_mb": 2500, "timeout_s": 600},
        "report": {"template": "TID1500", "key_slice": "largest_area"},
        "intended_use": INTENDED_USE,
        "limits": LIMITS,
        "not_for_clinical_use": True,
    }


CARD = (
    """# brain-tumour {version}

**Not for clinical use.** """
    + INTENDED_USE
    + """

## What it is
A thin 3-D U-Net ({parameters:,} parameters) at 2 mm over three channels, one a series. The T1-weighted series gives the
grid; FLAIR and T2 are brought onto it in patient space. Series are told apart by echo, repetition and inversion times
and by the contrast agent.

## What it learned from
Edema, core and enhancing part were to be told apart; that was not learned in the time there was: they are one segment.
Made-up heads drawn from 16 of the 20 training label maps of SynthSeg (BBillot/SynthSeg, Apache-2.0), with made-up
tumors. Recipe: `models/zoo/brain_tumour.py`. No image of a patient was used.

## Training
{training}

## Figures
{figures}

## Limits
"""
    + LIMITS
    + "\n"
)

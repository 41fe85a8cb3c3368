"""What the package `brain-structures` declares, and its card. It must never state a figure nobody measured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

MR_IMAGE, ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
STRUCTURE = {"value": "91723000", "meaning": "Anatomical Structure"}  # CID 7150
SUBSTANCE = {"value": "91720002", "meaning": "Body Substance"}
GREY_MATTER = {"value": "389081007", "meaning": "Gray Matter"}  # CID 7151, as are the types below

# number, name, category, type, site, colour. Two classes join several structures that share no single code:
# they are grey matter, and the name says of what.
SEGMENTS: tuple[tuple[int, str, Mapping[str, str], Mapping[str, str], Mapping[str, str] | None, str], ...] = (
    (1, "Cerebral cortex", STRUCTURE, {"value": "40146001", "meaning": "Cerebral cortex"}, None, "cd3e4e"),
    (2, "White matter", STRUCTURE, {"value": "68523003", "meaning": "Cerebral White Matter"}, None, "f5f5dc"),
    (3, "CSF and ventricles", SUBSTANCE, {"value": "65216001", "meaning": "Cerebrospinal Fluid"}, None, "4682b4"),
    (4, "Cerebellum", STRUCTURE, {"value": "113305005", "meaning": "Cerebellum"}, None, "e69422"),
    (
        5,
        "Deep grey matter",
        STRUCTURE,
        GREY_MATTER,
        {"value": "12738006", "meaning": "Brain"},
        "2e8b57",
    ),
    (
        6,
        "Hippocampus and amygdala",
        STRUCTURE,
        GREY_MATTER,
        {"value": "78277001", "meaning": "Temporal lobe"},
        "dcd814",
    ),
    (7, "Brain stem", STRUCTURE, {"value": "119238007", "meaning": "Brain Stem"}, None, "779fb0"),
)
ALL = [row[0] for row in SEGMENTS]

INTENDED_USE = (
    "Shows seven structures of the brain and their volumes on MR of a head, to try the appliance and to teach. "
    "Not for diagnosis, not for follow-up, not for any decision about a patient."
)
LIMITS = (
    "Learned from 20 label maps of adult heads alone, without one real image. Not tested on tumours, strokes, "
    "operated heads, infants or low-field MR. Works at 2 mm: thin sulci and gyri, hippocampus and amygdala are "
    "coarse, and hippocampus with amygdala is often missed. Skull base, tongue and neck may be taken for brain. "
    "Other contrasts than T1 are not validated."
)


def segment_entries() -> list[dict[str, Any]]:
    """Return the segments as package.json writes them."""
    return [
        {
            "number": number,
            "name": name,
            "category": category,
            "type": kind,
            "site": site,
            "rgb": list(bytes.fromhex(colour)),
            "min_volume_ml": 0.2,
        }
        for number, name, category, kind, site, colour in SEGMENTS
    ]


def requirement() -> dict[str, Any]:
    """Return which series fit: MR of a head in slices, T1-weighted ones first."""
    return {
        "modality": "MR",
        "sop_class_uids": [MR_IMAGE, ENHANCED_MR_IMAGE],
        "min_slices": 16,
        "max_slices": 1024,
        "slice_spacing_mm": [0.3, 7.0],
        "pixel_spacing_mm": [0.2, 3.0],
        "min_extent_mm": 90.0,
        "exclude_image_types": ["LOCALIZER", "PROJECTION IMAGE", "MIP", "ADC", "SUBTRACTION"],
        "prefer": [
            {"keyword": "SeriesDescription", "pattern": "mprage|mp-rage|bravo|spgr|tfe|vibe"},
            {"keyword": "SeriesDescription", "pattern": "t1"},
            {"keyword": "MRAcquisitionType", "pattern": "3D"},
        ],
    }


def declaration(version: str, architecture: tuple[str, dict[str, Any]], roi: tuple[int, ...]) -> dict[str, Any]:
    """Return the content of package.json."""
    name, kwargs = architecture
    return {
        "schema_version": 1,
        "id": "brain-structures",
        "version": version,
        "title": "AI brain structures, not clinical",
        "pathway": "brain-mr",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": {"parent": None, "round": None, "sites": None},
        "licence": "Apache-2.0",
        "publisher": "Petite Curie",
        "architecture": {"name": name, "kwargs": kwargs},
        "inputs": [{"name": "head", "requirement": requirement()}],
        "preprocess": [
            {"op": "orient", "axcodes": "RAS"},
            {"op": "resample", "spacing_mm": [2.0, 2.0, 2.0], "interpolation": "linear", "convention": "image-extent"},
            {"op": "clip_percentile", "lower": 0.5, "upper": 99.5},
            {"op": "scale", "lowest": 0.0, "highest": 1.0},
        ],
        "inference": {
            "mode": "sliding_window", "roi": list(roi), "overlap": 0.2, "blend": "gaussian", "batch": 1,
        },
        "outputs": {"kind": "segmentation", "segments": segment_entries()},
        "postprocess": [
            {"op": "to_source_grid", "method": "linear_logits"},
            {"op": "largest_component", "segments": ALL},
        ],
        "precision": {"allowed": ["f32", "f16"]},
        "resources": {"memory_mb": 3000, "timeout_s": 600},
        "report": {"template": "TID1500", "key_slice": "largest_area"},
        "intended_use": INTENDED_USE,
        "limits": LIMITS,
        "not_for_clinical_use": True,
    }  # fmt: skip


CARD = """# brain-structures {version}

**Not for clinical use.** {intended_use}

## What it is
A thin 3-D U-Net ({parameters:,} parameters) that labels cerebral cortex, cerebral white matter, CSF and ventricles,
cerebellum, deep grey matter (thalamus, caudate, putamen, pallidum, accumbens, ventral diencephalon), hippocampus
with amygdala, and brain stem. It works at 2 mm; logits are interpolated to the grid of the source.

## What it learned from
Synthetic images only, drawn from 16 of the 20 training label maps of SynthSeg (BBillot/SynthSeg, Apache-2.0; every
second voxel), with random contrast, shape, resolution, bias field and noise; a quarter to a half with stripped
heads. No image of a patient was used. Recipe: `models/zoo/brain_structures.py`, licence of the package: Apache-2.0.

## Training
{training}

## Figures
{figures}

## Limits
{limits}
"""

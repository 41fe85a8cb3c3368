"""What a model says of a study, in coded terms. It must never depend on how a result is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 Section 8): SNOMED CT is scheme "SCT", DICOM "DCM", units "UCUM"."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Measurement:
    """One number with its coded name and UCUM unit."""

    name: Code
    value: float
    unit: Code


@dataclass(frozen=True)
class Finding:
    """One segment of a label map, what it is, and what was measured in it."""

    segment_number: int  # value in the label map, 1…255
    name: str  # short name a radiologist reads, also the Segment Label
    category: Code  # Segmented Property Category (CID 7150)
    code: Code  # Segmented Property Type; the finding of the measurement group
    site: Code | None  # finding site where it says more than `code`
    rgb: tuple[int, int, int]  # recommended display colour, sRGB 0…255
    measurements: tuple[Measurement, ...] = ()
    tracking_uid: str = ""  # given when results are written, derived from the job
    voxels: int = 0  # size in the label map


ML = Code("ml", "UCUM", "milliliter")
VOLUME = Code("118565006", "SCT", "Volume")

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
    """What was found, and what was measured in it: a segment of a label map, or something of the whole study."""

    segment_number: int  # value in the label map, 1…255; 0: no part of the image, a finding of the whole
    name: str  # short name a radiologist reads, also the Segment Label
    category: Code  # Segmented Property Category (CID 7150)
    code: Code  # Segmented Property Type; the finding of the measurement group
    site: Code | None  # finding site where it says more than `code`
    rgb: tuple[int, int, int]  # recommended display colour, sRGB 0…255
    measurements: tuple[Measurement, ...] = ()
    tracking_uid: str = ""  # given when results are written, derived from the job
    voxels: int = 0  # size in the label map
    present: bool = True  # False: looked for and not there
    probability: float | None = None  # 0…1, of a candidate or class
    operating_point: float | None = None  # the probability from which on it is reported as present
    laterality: Code | None = None
    curve: tuple[tuple[float | None, float], ...] = ()  # over time: (ms after the R-wave where known, ml)
    candidate: bool = False  # one of several alike, told apart by nothing that holds over time


ML = Code("ml", "UCUM", "milliliter")
MM = Code("mm", "UCUM", "millimeter")
PERCENT = Code("%", "UCUM", "Percent")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
NO_UNITS = Code("1", "UCUM", "no units")
VOLUME = Code("118565006", "SCT", "Volume")
DIAMETER = Code("81827009", "SCT", "Diameter")
MEAN = Code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
MINIMUM = Code("255605001", "SCT", "Minimum")
MAXIMUM = Code("56851009", "SCT", "Maximum")
END_DIASTOLIC_VOLUME = Code("18026-5", "LN", "Left Ventricular End Diastolic Volume")
END_SYSTOLIC_VOLUME = Code("18148-7", "LN", "Left Ventricular End Systolic Volume")
STROKE_VOLUME = Code("90096001", "SCT", "Stroke Volume")
EJECTION_FRACTION = Code("70822001", "SCT", "Cardiac ejection fraction")
LEFT, RIGHT = Code("7771000", "SCT", "Left"), Code("24028007", "SCT", "Right")
LATERALITY = {"left": LEFT, "right": RIGHT}


def name_in(region: str, name: str) -> str:
    """Return the name of a structure in a region, as "Left anterior hippocampus"; the name alone without one."""
    return f"{region.capitalize()} {name[0].lower()}{name[1:]}" if region else name

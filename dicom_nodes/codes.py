"""The coded concepts that results use, as tables (PS3.16), and their form for highdicom.

Codes that depend on a finding come with the finding from the model package; here stand those of the writers
themselves. This module must never invent a code: every value is of DICOM (DCM), SNOMED CT (SCT) or UCUM.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from appliance.finding import Code

if TYPE_CHECKING:  # highdicom is 20 MB and a quarter of a second; the receiver needs the tables alone
    from highdicom.sr import CodedConcept

# CID 7005 Contributing Equipment Purposes of Reference
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
# CID 7162 Surface Processing Algorithm Families
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
# CID 7202 Source Image Purposes of Reference, CID 7203 Image Derivations
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
SEGMENTATION = Code("113076", "DCM", "Segmentation")
PROBABILISTIC = Code("110854", "DCM", "Fractional Probabilistic Segmentation")
NO_UNITS = Code("1", "UCUM", "no units")
# CID 100 Quantitative Diagnostic Imaging Procedures: modality → what was done
PROCEDURE_REPORTED = {
    "CT": Code("77477000", "SCT", "Computed tomography"),
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
    "PT": Code("82918005", "SCT", "Positron emission tomography"),
}
ANY_PROCEDURE = Code("363679005", "SCT", "Imaging")
# TID 1500 and what it includes
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
ENGLISH = Code("en", "RFC5646", "English")
DEVICE = Code("121007", "DCM", "Device")
COMMENT = Code("121106", "DCM", "Comment")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
# CID 6047 CAD Processing and Findings Summary, and the concept it answers (TID 4000, 4100)
FINDINGS_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")
WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
NOT_COMPUTED = Code("111245", "DCM", "No algorithms succeeded; without findings")
# CID 7003 Diagnostic Imaging Report Purposes of Reference
ILLUSTRATION = Code("121200", "DCM", "Illustration of ROI")
# CID 7010 Key Object Selection Document Title; CID 7031 those of rejection notes (IHE IOCM)
OF_INTEREST = Code("113000", "DCM", "Of Interest")
REJECTED_FOR_QUALITY = Code("113001", "DCM", "Rejected for Quality Reasons")
REJECTED_FOR_SAFETY = Code("113037", "DCM", "Rejected for Patient Safety Reasons")
WRONG_WORKLIST_ENTRY = Code("113038", "DCM", "Incorrect Modality Worklist Entry")
RETENTION_EXPIRED = Code("113039", "DCM", "Data Retention Policy Expired")
# TID 2010, 1002, 1004
KEY_OBJECT_DESCRIPTION = Code("113012", "DCM", "Key Object Description")
OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
DEVICE_OBSERVER_UID = Code("121012", "DCM", "Device Observer UID")
DEVICE_OBSERVER_NAME = Code("121013", "DCM", "Device Observer Name")
IMAGING_REPORT = Code("18748-4", "LN", "Diagnostic imaging study")
ABSENT = Code("2667000", "SCT", "Absent")
PRESENT = Code("52101004", "SCT", "Present")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
R_WAVE = Code("122505", "DCM", "R-wave")
MILLISECOND = Code("ms", "UCUM", "millisecond")
AREA = Code("42798000", "SCT", "Area")
SQUARE_MM = Code("mm2", "UCUM", "square millimeter")


@cache
def concept(code: Code) -> CodedConcept:
    """Return the code as highdicom wants it; one object for one code, not to be changed."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)

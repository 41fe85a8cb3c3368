"""The annexes of the conformance statement (PS3.2): the objects that results are, SR templates, private codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from appliance.growth import DOUBLING_TIME, RELATIVE_CHANGE
from appliance.settings import Settings
from dicom_nodes.result_classes import BY_ROLE

OBJECTS = {  # role in `results` → what is particular of the objects we make
    "SEG": "BINARY, up to 20 segments, each with its algorithm identification",
    "SR": "TID 1500 Measurement Report, COMPLETE, UNVERIFIED; the root that refers to all others",
    "KOS": 'TID 2010, "Of Interest", or as a retraction "Rejected for Quality Reasons"',
    "PMAP": "16 bits unsigned with a real world value mapping, the probability at each voxel",
    "GSPS": "outlines and names as graphic annotations",
    "SC": "RGB, 8 bits, findings burned in",
    "PDF": "one page",
    "RTSTRUCT": "closed planar contours",
    "LABELMAP": "instead of SEG, where the class is accepted",
}
TEMPLATES = {  # TID of PS3.16 → its name, and what it holds
    "1002": ("Observer Context", "the appliance as device observer"),
    "1004": ("Device Observer Identifying Attributes", "its UID, name, model and serial number"),
    "1410": ("Planar ROI Measurements and Qualitative Evaluations", "a finding's outline in its key slice"),
    "1411": ("Volumetric ROI Measurements and Qualitative Evaluations", "a finding's segment and measurements"),
    "1500": ("Measurement Report", "root of each report"),
    "1501": ("Measurement and Qualitative Evaluation Group", "what holds of the whole study; curves of volume"),
    "1502": ("Time Point Context", "the moments of a curve"),
    "2010": ("Key Object Selection", "key slices; retractions"),
    "4000": ("CAD Processing and Findings Summary", "its concept alone, in a report of TID 1500"),
    "4019": ("Algorithm Identification", "package, version, digests, engine and precision"),
}


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return str("" if value is None else value).replace("|", "\\|").replace("\n", " ")


def objects(settings: Settings) -> str:  # noqa: ARG001
    """Return annex 8: what the results are made of."""
    made = table(
        ("`results`", "SOP Class UID", "particulars"), ((role, BY_ROLE[role], text) for role, text in OBJECTS.items())
    )
    templates = table(("TID", "template", "used for"), ((tid, *texts) for tid, texts in TEMPLATES.items()))
    own = table(
        ("value", "scheme", "meaning"),
        ((one.value, one.scheme, one.meaning) for one in (RELATIVE_CHANGE, DOUBLING_TIME)),
    )
    return (
        f"## 8 Annexes\n\n### 8.1 IOD contents: created SOP instances\n\n{made}\n\n"
        "Patient and study are those of the source, in ISO_IR 192 and with invalid dates and times emptied; series, "
        "equipment and instance are ours. Frame of Reference is the source's. UIDs are `2.25.` with a UUIDv5, the same "
        "for the same images, version and engine. Only Standard SOP classes, and no private attributes.\n\n"
        f"### 8.2 SR templates (PS3.16)\n\n{templates}\n\n### 8.3 Private codes\n\n{own}\n\n"
        "All others are of DCM, SCT, UCUM, UMLS, LN, RFC5646, or of the package, which may name any scheme.\n\n"
        "### 8.4 Private transfer syntaxes\n\nNone are proposed; any that a source proposes is accepted and kept."
    )

"""Names that public bundles give their channels and classes → DICOM's codes. It must never guess: what is not in the
table is asked of a person.

Codes are SNOMED CT's as PS3.16 lists them: CID 7150 for categories, CID 7151 and 7159 for types, CID 4 for sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STRUCTURE = {"value": "91723000", "meaning": "Anatomical Structure"}
ALTERED = {"value": "49755003", "meaning": "Morphologically Abnormal Structure"}
NEOPLASM = {"value": "108369006", "meaning": "Neoplasm"}
BRAIN = {"value": "12738006", "meaning": "Brain"}
COLOURS = ("cd3e4e", "e69422", "dcd814", "2e8b57", "4682b4", "8a5fbf", "d98cb3", "8b6f47", "5fb8a8", "9aa0a6")


@dataclass(frozen=True)
class Coded:
    """What a name stands for. `outside`: the name of what is left of a region where others are laid over it."""

    category: Mapping[str, str]
    type: Mapping[str, str]
    site: Mapping[str, str] | None = None
    laterality: str | None = None
    depth: int | None = None  # of nested regions: the outermost has 0
    outside: str = ""
    outside_type: Mapping[str, str] | None = None


def _organ(value: str, meaning: str, laterality: str | None = None) -> Coded:
    return Coded(STRUCTURE, {"value": value, "meaning": meaning}, laterality=laterality)


ORGANS = {
    "spleen": ("78961009", "Spleen"),
    "liver": ("10200004", "Liver"),
    "kidney": ("64033007", "Kidney"),
    "pancreas": ("15776009", "Pancreas"),
    "gallbladder": ("28231008", "Gallbladder"),
    "stomach": ("69695003", "Stomach"),
    "duodenum": ("38848004", "Duodenum"),
    "esophagus": ("32849002", "Esophagus"),
    "colon": ("71854001", "Colon"),
    "bladder": ("89837001", "Bladder"),
    "prostate": ("41216001", "Prostate"),
    "aorta": ("15825003", "Aorta"),
    "heart": ("80891009", "Heart"),
    "lung": ("39607008", "Lung"),
    "trachea": ("44567001", "Trachea"),
    "adrenal gland": ("23451007", "Adrenal gland"),
    "brain": ("12738006", "Brain"),
    "hippocampus": ("5366008", "Hippocampus"),
}
SIDES = ("left", "right")
PAIRED = ("kidney", "lung", "adrenal gland", "hippocampus")
TUMOUR = Coded(ALTERED, NEOPLASM)
NAMES: Mapping[str, Coded] = {
    **{name: _organ(*code) for name, code in ORGANS.items()},
    **{f"{side} {name}": _organ(*ORGANS[name], laterality=side) for name in PAIRED for side in SIDES},
    "tumor": TUMOUR,
    "tumour": TUMOUR,
    "whole tumor": Coded(
        ALTERED, NEOPLASM, BRAIN, depth=0, outside="Edema around tumor",
        outside_type={"value": "79654002", "meaning": "Edema"},
    ),
    "tumor core": Coded(ALTERED, NEOPLASM, BRAIN, depth=1, outside="Tumor core without enhancement"),
    "enhancing tumor": Coded(ALTERED, NEOPLASM, BRAIN, depth=2),
}  # fmt: skip

# name of an input channel → what a Series Description may say (pattern, score); at least `least` is needed
CONTRASTS: Mapping[str, tuple[float, Sequence[tuple[str, float]]]] = {
    "flair": (1, (("flair", 2),)),
    "t1": (1, (("t1|mprage|bravo|spgr", 1), (r"flair|post|gad|\bgd\b|contrast|\+c|\bkm\b", -3))),
    "t1c": (3, (("t1|mprage|bravo|spgr", 1), (r"post|gad|\bgd\b|contrast|\+c|\bkm\b", 2), ("flair", -3))),
    "t2": (1, (("t2", 1), ("flair", -3))),
}
SAME_CONTRAST = {"t1ce": "t1c", "t1gd": "t1c", "t1 post": "t1c", "t2w": "t2", "t1w": "t1", "t2flair": "flair"}

# modality → SOP Class UIDs of its images (PS3.4 Annex B.5)
STORAGE = {
    "CT": ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"],
    "MR": ["1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"],
    "PT": ["1.2.840.10008.5.1.4.1.1.128"],
    "CR": ["1.2.840.10008.5.1.4.1.1.1"],
    "DX": ["1.2.840.10008.5.1.4.1.1.1.1"],
    "MG": ["1.2.840.10008.5.1.4.1.1.1.2"],
}
SAME_MODALITY = {"MRI": "MR", "PET": "PT"}


def looked_up(name: str) -> Coded | None:
    """Return what a name stands for; None where the table does not know it."""
    return NAMES.get(" ".join(name.lower().replace("_", " ").replace("-", " ").split()))


def colour(number: int) -> list[int]:
    """Return red, green and blue of the segment `number`, from 1."""
    return list(bytes.fromhex(COLOURS[(number - 1) % len(COLOURS)]))


def entry(found: Coded, number: int, name: str, *, covered: bool) -> dict[str, Any]:
    """Return a segment as package.json writes it; `covered`: other regions are laid over this one."""
    shell = covered and found.outside
    return {
        "number": number,
        "name": found.outside if shell else name,
        "category": dict(found.category),
        "type": dict(found.outside_type or found.type) if shell else dict(found.type),
        "site": dict(found.site) if found.site else None,
        "laterality": found.laterality,
        "rgb": colour(number),
    }

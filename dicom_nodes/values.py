"""Values of a dataset as it was received, read without changing it.

pydicom turns an element into a Python value when it is first looked at, and warns, quoting the value. These
functions look at the received bytes instead: no warning, nothing raised for an odd value, the dataset stays
as it was. They must never write to a dataset.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from pydicom import Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.valuerep import PersonName

NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "US or SS": "H"}
DECODED = {"LO", "PN", "SH", "UC", "LT", "ST", "UT"}  # VRs that Specific Character Set governs
CHARACTER_SET = 0x00080005
TEXT_DELIMITERS = {0x0A, 0x0C, 0x0D, 0x09, 0x5C, 0x5E, 0x3D}  # where ISO 2022 returns to its first set


def by_tag(element: Any) -> int:
    """Return the tag of an element as a number, to sort by (comparing pydicom's tags is slow)."""
    return int.__int__(element.tag)


def vr_of(tag: int, given: str | None) -> str:
    """Return the Value Representation: the dictionary's, else the one given, else UN."""
    known = DicomDictionary.get(tag)
    return known[0] if known else given or "UN"


def element(ds: Dataset, tag: int) -> Any:
    """Return the element as it stands (raw or not), or None."""
    return ds.get_item(tag)


def items(ds: Dataset, tag: int) -> list[Dataset]:
    """Return the items of a sequence, or an empty list where there is none or it cannot be read."""
    if tag not in ds:
        return []
    try:
        value = ds[tag].value
        return list(value) if value is not None and not isinstance(value, str | bytes) else []
    except (ValueError, TypeError, KeyError, AttributeError, EOFError, OSError, struct.error):
        return []


def text(ds: Dataset, tag: int) -> str:
    """Return the value as text (backslashes kept), or "" where there is none."""
    found = element(ds, tag)
    if found is None or found.value is None:
        return ""
    if isinstance(found, RawDataElement):
        return "\\".join(raw_texts(found, encodings(ds)))
    if isinstance(found.value, str | PersonName) or not hasattr(found.value, "__iter__"):
        return str(found.value).strip(" \0")
    return "\\".join(str(value).strip(" \0") for value in found.value)


def numbers(ds: Dataset, tag: int) -> tuple[float, ...] | None:
    """Return the value as numbers, () where it is empty or absent, None where it is not numbers."""
    try:
        return tuple(float(part) for part in text(ds, tag).split("\\") if part.strip())
    except ValueError:
        return None


def whole(ds: Dataset, tag: int, default: int) -> int:
    """Return the value as one integer, or the default where it is absent or none."""
    found = numbers(ds, tag)
    return int(found[0]) if found and math.isfinite(found[0]) else default


def encodings(ds: Dataset) -> list[str]:
    """Return the Python encodings that Specific Character Set names (PS3.3 C.12.1.1.2); unknown ones left out."""
    found = element(ds, CHARACTER_SET)
    if found is None or not found.value:
        return ["iso8859"]
    value = found.value
    terms = value.decode("ascii", "replace").split("\\") if isinstance(value, bytes) else value
    terms = [terms] if isinstance(terms, str) else terms
    known = [term.strip(" \0") for term in terms if term.strip(" \0") in python_encoding]
    return list(convert_encodings(known)) if known else ["utf8"]


def raw_texts(raw: RawDataElement, charsets: list[str]) -> list[str]:
    """Return the values of a received element as text; binary numbers become decimal text."""
    vr = vr_of(raw.tag, raw.VR)
    value = raw.value or b""
    if code := NUMBERS.get(vr):
        size = struct.calcsize(code)
        order = "<" if raw.is_little_endian else ">"
        count = len(value) // size
        return [f"{n:.10g}" for n in struct.unpack(f"{order}{count}{code}", value[: count * size])]
    return [part.strip(" \0") for part in decoded(value, vr, charsets).split("\\")]


def decoded(value: bytes, vr: str, charsets: list[str]) -> str:
    """Return text in any of DICOM's character sets as Unicode; what does not decode becomes U+FFFD."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    if vr not in DECODED:
        return value.decode("ascii", "replace")
    try:
        found: str = decode_bytes(value, charsets, TEXT_DELIMITERS)
    except (LookupError, UnicodeError):
        return value.decode(charsets[0] if charsets[0] != "iso8859" else "latin-1", "replace")
    return found

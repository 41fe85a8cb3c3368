"""Who a patient is: read from the header of an image in the spool, on request alone, and kept nowhere."""

from __future__ import annotations

from pathlib import Path

from appliance.errors import CurieError, InstanceRefused, Missing

SHOWN = (
    ("Patient's Name", 0x00100010),
    ("Patient ID", 0x00100020),
    ("Patient's Birth Date", 0x00100030),
    ("Patient's Sex", 0x00100040),
    ("Accession Number", 0x00080050),
    ("Study Date", 0x00080020),
)


def identifiers_in(file: Path) -> list[tuple[str, str]]:
    """Return what an image says of its patient. Raises Missing where it was removed, CurieError if it is no DICOM."""
    from dicom_nodes.header import read_header
    from dicom_nodes.values import text

    try:
        header = read_header(file)
    except FileNotFoundError:
        raise Missing("the images of this study were removed (spool.keep_days); look it up in the PACS") from None
    except InstanceRefused as error:
        raise CurieError(f"the header of this study cannot be read: {error}") from None
    return [(name, _readable(text(header, tag))) for name, tag in SHOWN]


def _readable(value: str) -> str:
    """Return a name as a person writes it, a date with hyphens, and nothing that is no letter."""
    shown = "".join(c if c.isprintable() else " " for c in value.replace("^", " ").replace("=", " / ")).strip(" /")
    return f"{shown[:4]}-{shown[4:6]}-{shown[6:]}" if len(shown) == 8 and shown.isdigit() else shown or "–"

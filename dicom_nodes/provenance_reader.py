"""What a result says of its own making, read back from the stored file (PS3.3 C.12.1, Contributing Equipment)."""

from __future__ import annotations

from pathlib import Path

from dicom_nodes.codes import PROCESSING_EQUIPMENT
from dicom_nodes.header import read_header
from dicom_nodes.values import items, text

CONTRIBUTING, PURPOSE, CODE_VALUE = 0x0018A001, 0x0040A170, 0x00080100
DESCRIPTION, AT, DEVICE_UID, VERSIONS = 0x0018A003, 0x0018A002, 0x00181002, 0x00181020


def provenance_of(path: Path) -> dict[str, str]:
    """Return software version, time, device and the parameters of the algorithm; nothing where there are none."""
    ds = read_header(path)
    for item in items(ds, CONTRIBUTING):
        if PROCESSING_EQUIPMENT.value in {text(code, CODE_VALUE) for code in items(item, PURPOSE)}:
            told = dict(one.split(" ", 1) for one in text(item, DESCRIPTION).split("; ") if " " in one)
            software = text(item, VERSIONS).split("\\")[0]
            return {"software": software, "made_at": text(item, AT), "device_uid": text(item, DEVICE_UID), **told}
    return {}

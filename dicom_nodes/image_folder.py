"""Images in a folder that never came over the wire, by series. Headers alone are read; what is no image is left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset

from appliance.catalogue.corrections import HeldSeries
from appliance.errors import InstanceRefused
from dicom_nodes.contexts import is_document
from dicom_nodes.header import read_header
from dicom_nodes.instance_reader import patient_key
from dicom_nodes.values import text

SOP_CLASS, STUDY, SERIES, FRAME_OF_REFERENCE = 0x00080016, 0x0020000D, 0x0020000E, 0x00200052
MANUFACTURER, MODEL = 0x00080070, 0x00081090


def images_in(folder: Path) -> dict[str, HeldSeries]:
    """Return Series Instance UID → images, of every series of one patient below a folder."""
    found: dict[str, list[tuple[Path, Dataset]]] = {}
    for path, ds in _images(folder):
        found.setdefault(text(ds, SERIES), []).append((path, ds))
    return {uid: _series(several) for uid, several in found.items() if len({patient_key(ds) for _, ds in several}) == 1}


def _images(folder: Path) -> Iterator[tuple[Path, Dataset]]:
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        try:
            ds = read_header(path)
        except (InstanceRefused, OSError):
            continue
        if not is_document(text(ds, SOP_CLASS)):
            yield path.absolute(), ds


def _series(several: list[tuple[Path, Dataset]]) -> HeldSeries:
    _, first = several[0]
    scanner = " ".join(filter(None, (text(first, MANUFACTURER), text(first, MODEL))))[:128] or "unknown"
    paths = tuple(str(path) for path, _ in several)
    study, series, frame = (text(first, tag) for tag in (STUDY, SERIES, FRAME_OF_REFERENCE))
    return HeldSeries(study, series, frame, patient_key(first), scanner, paths)

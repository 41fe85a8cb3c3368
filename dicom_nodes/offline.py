"""Files of a folder as routing would see them, without spool or catalogue. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from appliance.catalogue.receiving import ReceivedInstance
from appliance.catalogue.routing import geometry_from_row
from appliance.study import SeriesSummary, StudySummary
from dicom_nodes.arrivals import FileKept
from dicom_nodes.instance_reader import is_routable, read_instance


def is_keyword(text: str) -> bool:
    """Return whether DICOM knows an attribute of this keyword (PS3.6), and routes may match on it."""
    return is_routable(text)


def read_images(files: Iterable[Path]) -> list[ReceivedInstance]:
    """Return the instances among files, as the indexer reads them; what is not DICOM is left out."""
    read = [read_instance(file.parent, FileKept(file.name))[0] for file in files]
    return [row for row in read if row.state != "unreadable"]


def summarise(files: Sequence[Path]) -> list[StudySummary]:
    """Return the studies among the files."""
    images = [row for row in read_images(files) if row.state == "current"]
    studies: dict[str, list[ReceivedInstance]] = {}
    for row in images:
        studies.setdefault(row.study_instance_uid, []).append(row)
    return [_study(uid, rows) for uid, rows in studies.items()]


def _study(uid: str, rows: Sequence[ReceivedInstance]) -> StudySummary:
    series: dict[str, list[ReceivedInstance]] = {}
    for row in rows:
        series.setdefault(row.series_instance_uid, []).append(row)
    patients = len({row.patient_key for row in rows})
    problem = f"the study holds images of {patients} patients" if patients > 1 else ""
    return StudySummary(uid, tuple(_series(name, some) for name, some in series.items()), problem)


def _series(uid: str, rows: Sequence[ReceivedInstance]) -> SeriesSummary:
    return SeriesSummary(
        series_instance_uid=uid,
        modality=rows[0].modality,
        sop_class_uids=frozenset(row.sop_class_uid for row in rows),
        attributes=rows[0].attributes,
        geometry=tuple(geometry_from_row(plane) for row in rows for plane in row.geometry),
        instances=tuple(sorted((row.sop_instance_uid, row.header_digest + row.pixel_digest) for row in rows)),
    )

"""Before results leave: does the PACS call the study's patient as they do? Asked where a destination has `find = true`.

A merge or a correction at the PACS that has not reached us shows itself here. What contradicts waits, and is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.catalogue.outbox import Parcel
from appliance.errors import Refused, Unreachable
from appliance.settings import Destination
from dicom_nodes.header import read_header
from dicom_nodes.query import patient_of, remedy, same_patient
from dicom_nodes.values import text

STUDY_UID, PATIENT_ID, PATIENT_NAME = 0x0020000D, 0x00100020, 0x00100010
CONTRADICTS = (
    "the PACS has another Patient ID or name for this study; not sent until the corrected images come, "
    "or the PACS is corrected"
)


def contradicted(destination: Destination, our_ae_title: str, parcels: Sequence[Parcel], results: Path) -> list[Parcel]:
    """Return the parcels whose patient the destination calls otherwise; a study unknown there contradicts nothing.

    Raises Unreachable where it does not answer, a refusal too: that says nothing against the results, and may end.
    """
    if not destination.find or destination.url:
        return []
    named = {parcel.sop_instance_uid: _named(results / parcel.path) for parcel in parcels}
    try:
        known = {study: patient_of(destination, our_ae_title, study) for study in {one[0] for one in named.values()}}
    except Refused as refusal:
        raise Unreachable(f"{refusal}. {remedy(our_ae_title)}") from None
    return [parcel for parcel in parcels if _differs(named[parcel.sop_instance_uid], known)]


def _named(path: Path) -> tuple[str, tuple[str, str]]:
    """Return study, and Patient ID and name, of a stored result."""
    ds = read_header(path)
    return text(ds, STUDY_UID), (text(ds, PATIENT_ID).strip(), text(ds, PATIENT_NAME).strip())


def _differs(named: tuple[str, tuple[str, str]], known: Mapping[str, tuple[str, str] | None]) -> bool:
    study, ours = named
    theirs = known[study]
    return theirs is not None and not same_patient(ours, theirs)

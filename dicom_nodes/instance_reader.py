"""A spool file → the row that the catalogue keeps of it. Whatever a file does to its reader, it becomes a row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from appliance.catalogue.connection import now
from appliance.catalogue.receiving import ReceivedInstance
from appliance.errors import InstanceRefused
from dicom_nodes.arrivals import FileKept
from dicom_nodes.contexts import is_document, is_uid
from dicom_nodes.digest import header_digest, pixel_digest, streamed_pixel_digest
from dicom_nodes.header import attributes, geometry, read_open, whole_between
from dicom_nodes.rejection_note import rejected_by
from dicom_nodes.result_files import is_own_result
from dicom_nodes.values import text

LEADS_TO_A_PERSON = {"AdmissionID", "IssuerOfPatientID", "MilitaryRank", "CountryOfResidence", "Occupation"}
KEPT_OF_PATIENT = {"PatientSex", "PatientAge", "PatientPosition", "PatientOrientation"}
SOP_INSTANCE_UID, SOP_CLASS_UID, STUDY_UID, SERIES_UID = 0x00080018, 0x00080016, 0x0020000D, 0x0020000E
INSTANCE_NUMBER, STUDY_RELATED, SERIES_RELATED = 0x00200013, 0x00201208, 0x00201209
NUMBERS_OF_IS = (-(2**31), 2**31 - 1)  # PS3.5 Table 6.2-1
LARGE = 64 * 1024 * 1024  # bytes of a file that is not read as a whole, where that can be
COUNTS = (1, 1_000_000)  # of instances; others are absurd


def read_instance(
    folder: Path, file: FileKept, is_known: Callable[[str, str], bool] | None = None
) -> tuple[ReceivedInstance, str]:
    """Return the row of a spool file; one that cannot be read has the state `unreadable`, and a reason.

    Attributes are read for the first image of a series: not where `is_known` says that (study, series) has a row.
    Raises OSError when the disk does not answer.
    """
    path = folder / file.path
    stat = path.stat()
    # an adopted file lay there unseen: its study is not quiet because the machine was off
    at = datetime.fromtimestamp(stat.st_mtime, UTC) if file.association_id else now()
    try:
        ds, pixels = _read(path, stat.st_size)
        return _row(ds, pixels, file, stat.st_size, at, is_known), ""
    except OSError:
        raise  # not the file's fault: to be tried again
    except Exception as error:  # noqa: BLE001 - whatever a file does to its reader, it is set aside and nothing stops
        reason = str(error) if isinstance(error, InstanceRefused) else f"cannot be read ({type(error).__name__})"
        digest = Path(file.path).name[:64]
        row = ReceivedInstance(
            sop_instance_uid=digest, sop_class_uid="", transfer_syntax_uid="", study_instance_uid="",
            series_instance_uid="", path=file.path, bytes=stat.st_size, header_digest="", pixel_digest="",
            patient_key="", state="unreadable", received_at=at, association_id=file.association_id,
        )  # fmt: skip
        return row, reason


def _read(path: Path, size: int) -> tuple[Dataset, str]:
    """Return the header of a file, or all of a small one, and the digest of its pixels."""
    with path.open("rb") as stream:
        if size > LARGE:
            ds = read_open(stream)
            if digest := streamed_pixel_digest(ds, stream, size):
                return ds, digest
            stream.seek(0)
        ds = read_open(stream, pixels=True)
    return ds, pixel_digest(ds)


def _row(
    ds: Dataset, pixels: str, file: FileKept, size: int, at: datetime, is_known: Callable[[str, str], bool] | None
) -> ReceivedInstance:
    uid, sop_class, study, series = uids = [
        text(ds, t) for t in (SOP_INSTANCE_UID, SOP_CLASS_UID, STUDY_UID, SERIES_UID)
    ]
    if not all(is_uid(uid) for uid in uids):
        raise InstanceRefused("a study, series or instance UID is absent or not a UID", InstanceRefused.UNREADABLE)
    state = "document" if is_document(sop_class) else "current"
    if is_own_result(ds):
        state = "result"
    is_image = state == "current"
    rejection, rejects = rejected_by(ds) if state == "document" else ("", ())
    return ReceivedInstance(
        sop_instance_uid=uid,
        sop_class_uid=sop_class,
        transfer_syntax_uid=str(ds.file_meta.get("TransferSyntaxUID", "")),
        study_instance_uid=study,
        series_instance_uid=series,
        path=file.path,
        bytes=size,
        header_digest=header_digest(ds),
        pixel_digest=pixels,
        patient_key=patient_key(ds),
        state=state,
        received_at=at,
        association_id=file.association_id,
        modality=text(ds, 0x00080060)[:16],
        accession_number=text(ds, 0x00080050)[:64],
        attributes=_routing_attributes(ds) if is_image and not (is_known and is_known(study, series)) else {},
        geometry=[asdict(plane) for plane in geometry(ds)] if is_image else [],
        number=whole_between(ds, INSTANCE_NUMBER, *NUMBERS_OF_IS),
        study_expected=whole_between(ds, STUDY_RELATED, *COUNTS) if state != "result" else None,
        series_expected=whole_between(ds, SERIES_RELATED, *COUNTS) if is_image else None,
        rejection=rejection,
        rejects=rejects,
    )


def _routing_attributes(ds: Dataset) -> dict[str, str | list[str]]:
    """Return what routes may match on: nothing that names a person."""
    return {keyword: value for keyword, value in attributes(ds).items() if is_routable(keyword)}


def is_routable(keyword: str) -> bool:
    """Return whether routes may match on an attribute: it names no person and leads to none."""
    if keyword in KEPT_OF_PATIENT:
        return True
    tag = tag_for_keyword(keyword)
    if tag is None or dictionary_VR(tag) == "PN" or keyword in LEADS_TO_A_PERSON:
        return False
    return not keyword.startswith(("Patient", "OtherPatient", "Referring"))


def patient_key(ds: Dataset) -> str:
    """Return a digest that tells patients apart: the Patient ID, or without one name and birth date."""
    if identity := text(ds, 0x00100020).strip():
        return key_of_patient_id(identity)
    return _digest("", text(ds, 0x00100010).strip(), text(ds, 0x00100030).strip())


def key_of_patient_id(identity: str) -> str:
    """Return the digest by which a patient of this Patient ID is told from others."""
    return _digest(identity.strip())


def _digest(*identity: str) -> str:
    return hashlib.sha256("\x1f".join(identity).encode()).hexdigest()

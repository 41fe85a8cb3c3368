"""What every result says of its patient, its study and its making, and how it becomes a file.

Patient and study are the source's, letter for letter as cleaned; equipment, series and times are ours and come
from the ResultContext. Nothing here may ask a clock or a random source: one context, one sequence of bytes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from io import BytesIO
from mmap import ACCESS_READ, mmap
from typing import IO, Any

from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.uid import ExplicitVRLittleEndian

from appliance.finding import Code
from appliance.growth import OWN_CODES
from appliance.job import ObjectReference, ResultContext
from dicom_nodes import codes, elements
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.source import UNICODE, SourceHeaders

MANUFACTURER = "Petite Curie"
NOT_CLINICAL = "not for clinical use"
WARNING = "not clinical"  # in a title; shorter, since 64 characters are all there is
LONGEST_LO, LONGEST_SH = 64, 16
END = 0xFFFFFFFF  # after every tag
LARGE = 32 * 1024 * 1024  # bytes of a file that is rather on disk than in memory
Encoded = bytes | mmap  # a complete file

REQUIRED = (  # type 2 of Patient and General Study: there, if only empty (PS3.3 C.7.1.1, C.7.2.1)
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyID", "ReferringPhysicianName",
)  # fmt: skip
COPIED = (  # where the source has them
    "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence",
    "PatientBirthTime", "OtherPatientNames", "EthnicGroup", "PatientComments", "ReferencedPatientSequence",
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription", "ResponsiblePerson",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
    "StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "ReferencedStudySequence",
    "ProcedureCodeSequence", "IssuerOfAccessionNumberSequence", "AdmittingDiagnosesDescription", "PatientAge",
    "PatientSize", "PatientWeight", "Occupation", "AdditionalPatientHistory", "AdmissionID", "MedicalAlerts",
    "Allergies", "SmokingStatus", "PatientState", "TimezoneOffsetFromUTC",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
)  # fmt: skip
ACQUISITION = (
    "Manufacturer", "InstitutionName", "StationName", "ManufacturerModelName", "DeviceSerialNumber",
    "SoftwareVersions",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """How the series of one kind of result is named."""

    role: str  # of the UIDs: f"{role}" the object, f"{role}-series" the series
    number: int
    noun: str  # after the package's title


SEGMENTATION_SERIES = Series("seg", 901, "segmentation")
SYSTOLE_SERIES = Series("seg-systole", 903, "end-systole")
CURVE_SERIES = Series("curve", 904, "volume curve")
REPORT_SERIES = Series("sr", 902, "report")
KEY_OBJECTS_SERIES = Series("kos", 905, "key images")
PRESENTATION_SERIES = Series("gsps", 906, "annotations")
OVERLAY_SERIES = Series("overlay", 907, "overlay")
PAGE_SERIES = Series("page", 908, "summary")
CONTOURS_SERIES = Series("contours", 909, "contours")
LABEL_MAP_SERIES = Series("labelmap", 910, "label map")
LABEL_MAP_REPORT_SERIES = Series("sr-labelmap", 911, "report")
PROBABILITY_SERIES = Series("pmap", 912, "probability")
RETRACTION_SERIES = Series("retraction", 913, "retraction")


def segmentation_series(part: int) -> Series:
    """Return the series of one of several Segmentations that a label map is split into, the first being 0."""
    return Series(f"seg-{part + 1}", 920 + part, f"segmentation, part {part + 1}") if part else SEGMENTATION_SERIES


def reference(context: ResultContext, series: Series, sop_class_uid: str, ordinal: int = 0) -> ObjectReference:
    """Return the reference to the object that `stamp` marks for this context and series."""
    return ObjectReference(sop_class_uid, context.uid(series.role, ordinal), context.uid(f"{series.role}-series"))


def study_date(source: SourceHeaders) -> str:
    """Return the Study Date of the images, YYYYMMDD, or nothing."""
    return str(source.header.get("StudyDate", "") or "")


def name_own_codes(ds: Dataset) -> None:
    """Say whose the codes of scheme 99PCURIE are (PS3.3 C.12.1, Coding Scheme Identification)."""
    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName = OWN_CODES, "Petite Curie codes"
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    ds.CodingSchemeIdentificationSequence = [item]


def stamp(ds: Dataset, source: SourceHeaders, context: ResultContext, series: Series, ordinal: int = 0) -> None:
    """Write patient, study, series, equipment and times into a result, over whatever stands there.

    `ordinal`: which of several objects of the series it is, from 0.
    """
    ds.SpecificCharacterSet = UNICODE
    _copy(ds, source.header)
    put(ds, "SeriesInstanceUID", context.uid(f"{series.role}-series"))
    put(ds, "SOPInstanceUID", context.uid(series.role, ordinal))
    put(ds.file_meta, "MediaStorageSOPInstanceUID", context.uid(series.role, ordinal))
    ds.SeriesNumber, ds.InstanceNumber = series.number, ordinal + 1
    ds.SeriesDescription = series_description(context, series)
    _equipment(ds, context)
    made_at = in_zone(context.made_at, str(ds.get("TimezoneOffsetFromUTC", "")))
    _times(ds, made_at)
    ds.ContributingEquipmentSequence = [*_acquisition(source.header), _processing(context, made_at)]


def _copy(ds: Dataset, header: Dataset) -> None:
    for keyword in REQUIRED:
        put(ds, keyword, header[keyword].value if keyword in header else "")
    for keyword in COPIED:
        if keyword in header:
            put(ds, keyword, header[keyword].value)
        elif keyword in ds:
            delattr(ds, keyword)


def put(ds: Dataset, keyword: str, value: Any) -> None:
    """Set a value letter for letter (attribute access would check it)."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    ds[tag] = DataElement(tag, dictionary_VR(tag), value)


def series_description(context: ResultContext, series: Series) -> str:
    """Return the Series Description: title, kind, and the warning where the title has none; a long title is cut."""
    warned = not context.not_for_clinical_use or WARNING in context.title.lower()
    rest = f": {series.noun}" + ("" if warned else f" ({NOT_CLINICAL})")
    return context.title[: LONGEST_LO - len(rest)].rstrip() + rest


def _equipment(ds: Dataset, context: ResultContext) -> None:
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, model_name(context)
    ds.SoftwareVersions = software_versions(context)
    ds.DeviceSerialNumber = context.appliance_uid[:LONGEST_LO]
    ds.StationName = context.appliance_name[:LONGEST_SH]
    ds.DeviceUID = context.appliance_uid


def model_name(context: ResultContext) -> str:
    """Return the Manufacturer's Model Name: the package that made the result."""
    return context.package[:LONGEST_LO]


def software_versions(context: ResultContext) -> list[str]:
    """Return the Software Versions as a list: of this software, of the package."""
    return [context.software_version[:LONGEST_LO], f"{context.package} {context.package_version}"[:LONGEST_LO]]


def started(sop_class_uid: str, modality: str) -> Dataset:
    """Return a dataset with file meta, for an object that no library writes."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    put(ds, "SOPClassUID", sop_class_uid)
    put(ds.file_meta, "MediaStorageSOPClassUID", sop_class_uid)
    ds.Modality = modality
    return ds


def in_zone(made_at: datetime, offset: str) -> datetime:
    """Return the time in the zone of the source (its Timezone Offset From UTC), as given where that is not known."""
    if made_at.tzinfo is None or not re.fullmatch(r"[+-]\d{4}", offset):
        return made_at
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return made_at.astimezone(timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes)))


def _times(ds: Dataset, made_at: datetime) -> None:
    day, time = made_at.strftime("%Y%m%d"), made_at.strftime("%H%M%S")
    for what in ("Content", "Series", "InstanceCreation"):
        setattr(ds, f"{what}Date", day)
        setattr(ds, f"{what}Time", time)


def _acquisition(header: Dataset) -> list[Dataset]:
    """Return the Contributing Equipment item of the scanner; none where the source names no maker (type 1)."""
    if not header.get("Manufacturer"):
        return []
    item = Dataset()
    for keyword in ACQUISITION:
        if keyword in header:
            put(item, keyword, header[keyword].value)
    item.PurposeOfReferenceCodeSequence = [coded(codes.ACQUISITION_EQUIPMENT)]
    return [item]


def _processing(context: ResultContext, made_at: datetime) -> Dataset:
    """Return the Contributing Equipment item of the algorithm (PS3.3 C.12.1)."""
    item = Dataset()
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, model_name(context)
    item.SoftwareVersions = software_versions(context)
    item.StationName = context.appliance_name[:LONGEST_SH]
    item.DeviceSerialNumber = context.appliance_uid[:LONGEST_LO]
    item.DeviceUID = context.appliance_uid
    item.ContributionDateTime = made_at.strftime("%Y%m%d%H%M%S")
    item.ContributionDescription = "; ".join(f"{name} {value}" for name, value in provenance(context).items())
    item.PurposeOfReferenceCodeSequence = [coded(codes.PROCESSING_EQUIPMENT)]
    return item


def provenance(context: ResultContext) -> dict[str, str]:
    """Return what tells this run from any other, as name → value."""
    told = {"weights": context.weights_digest, "round": context.training_round}
    return {
        "package": f"{context.package} {context.package_version}",
        "digest": context.package_digest,
        **{name: value for name, value in told.items() if value},
        "engine": f"{context.engine} {context.precision}",
        "job": context.job_id,
    }


def coded(code: Code) -> Dataset:
    """Return one item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item


def part10(ds: Dataset, encoded: Mapping[int, bytes | Iterable[bytes]]) -> bytes:
    """Return a complete file (PS3.10), Explicit VR Little Endian; `encoded` elements are put in at their tags."""
    with BytesIO() as file:
        _write(ds, encoded, file)
        return file.getvalue()


def large_part10(ds: Dataset, encoded: Mapping[int, bytes | Iterable[bytes]]) -> Encoded:
    """Return the same, where it is large as a map of a file without a name: its bytes need not be in memory."""
    with tempfile.SpooledTemporaryFile(max_size=LARGE) as file:
        _write(ds, encoded, file)
        if file.tell() > LARGE:
            file.flush()
            return mmap(file.fileno(), 0, access=ACCESS_READ)
        file.seek(0)
        return file.read()


def _write(ds: Dataset, encoded: Mapping[int, bytes | Iterable[bytes]], file: IO[bytes]) -> None:
    start = 0
    with lenient():
        for tag in (*sorted(encoded), END):
            part = ds[start:tag]
            if start == 0:
                part.file_meta = ds.file_meta
                dcmwrite(file, part, enforce_file_format=True)
            else:
                file.write(elements.dataset(part))
            put_in = encoded.get(tag, b"")
            for piece in [put_in] if isinstance(put_in, bytes) else put_in:
                file.write(piece)  # not writelines: a spooled file would look at its size after the last one
            start = tag

"""Seeded instances to send: CT, MR and one 300 MB multi-frame object, each distinct, their pixels shared in memory.

Built by pydicom once for a kind; an instance is that template with its own UIDs, number, position and first pixels,
so that making a thousand costs milliseconds and the 300 MB lie in memory once. It must never depend on the clock or
the network: the same (kind, run, number) gives the same bytes in every process, which is how stored bytes are checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID

EXPLICIT_LE = "1.2.840.10008.1.2.1"
MARK_BYTES = 16  # the first pixels, which differ from instance to instance
PRIVATE_ELEMENTS = 50
STUDY, SERIES, FRAME, INSTANCE = (f"2.25.{digit * 38}" for digit in "1234")  # what an instance replaces by its own
NUMBER, POSITION = "99999999", "+9999.99"


@dataclass(frozen=True)
class Kind:
    """One kind of object: its SOP Class and the shape of its pixels, which are 16 bit."""

    sop_class_uid: str
    modality: str
    rows: int
    columns: int
    frames: int = 1

    @property
    def pixel_bytes(self) -> int:
        """Length of the Pixel Data value."""
        return 2 * self.rows * self.columns * self.frames


KINDS = {
    "ct": Kind("1.2.840.10008.5.1.4.1.1.2", "CT", 512, 512),
    "mr": Kind("1.2.840.10008.5.1.4.1.1.4", "MR", 256, 256),
    "multiframe": Kind("1.2.840.10008.5.1.4.1.1.7.3", "OT", 1024, 1024, 143),  # 300 MB
}


@dataclass(frozen=True)
class Instance:
    """One instance, Explicit VR Little Endian: the encoded dataset is `head` followed by `pixels`."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    head: bytes  # all elements up to and with the first pixels
    pixels: memoryview  # the rest of them, shared by all instances of the kind

    @property
    def size(self) -> int:
        """Length of the encoded dataset in bytes."""
        return len(self.head) + len(self.pixels)

    def dataset(self) -> bytes:
        """Return the encoded dataset, without preamble and file meta information."""
        return self.head + self.pixels


def instances(kind: str, run: str, count: int, size_mb: float | None = None) -> list[Instance]:
    """Return `count` instances of one new study; another `run` gives other UIDs and other first pixels.

    `size_mb` shortens the multi-frame object for a trial.
    """
    chosen = KINDS[kind]
    if size_mb is not None:
        frames = max(1, round(size_mb * 1e6 / (2 * chosen.rows * chosen.columns)))
        chosen = Kind(chosen.sop_class_uid, chosen.modality, chosen.rows, chosen.columns, frames)
    head, pixels = _template(chosen)
    return [_instance(chosen, f"{kind}/{run}", number, head, pixels) for number in range(1, count + 1)]


def _instance(kind: Kind, run: str, number: int, template: bytes, pixels: memoryview) -> Instance:
    own = {STUDY: own_uid(run, "study"), SERIES: own_uid(run, "series"), FRAME: own_uid(run, "frame of reference")}
    own |= {INSTANCE: own_uid(run, f"instance {number}"), NUMBER: f"{number:08d}", POSITION: f"{1.25 * number:+08.2f}"}
    head = replaced(template, own)
    return Instance(kind.sop_class_uid, own[INSTANCE], own[STUDY], head + mark(own[INSTANCE]), pixels)


def replaced(template: bytes, own: Mapping[str, str]) -> bytes:
    """Return the template with its placeholders replaced by values of the same length."""
    head = template
    for placeholder, value in own.items():
        head = head.replace(placeholder.encode(), value.encode())
    assert len(head) == len(template)
    return head


def own_uid(run: str, what: str) -> str:
    """Return a UID under 2.25 that always has the same length."""
    number = int.from_bytes(hashlib.sha256(f"{run}/{what}".encode()).digest()[:16], "big")
    return f"2.25.{10**37 + number % (9 * 10**37)}"


def mark(uid: str) -> bytes:
    """Return the first pixels of an instance: 12 bits each, as in the others."""
    return bytes(byte & 0x0F if n % 2 else byte for n, byte in enumerate(hashlib.sha256(uid.encode()).digest()))[
        :MARK_BYTES
    ]


@lru_cache(maxsize=4)
def _template(kind: Kind) -> tuple[bytes, memoryview]:
    """Return (elements up to the Pixel Data header, pixels after the mark)."""
    noise = np.random.default_rng(1914).integers(0, 4096, kind.pixel_bytes // 2, dtype=np.uint16)
    return encoded(_elements(kind), kind.pixel_bytes), noise.data.cast("B")[MARK_BYTES:]


def encoded(ds: Dataset, pixel_bytes: int) -> bytes:
    """Return the elements in Explicit VR Little Endian, up to the header of Pixel Data of so many bytes."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, ds)
    return stream.getvalue() + b"\xe0\x7f\x10\x00OW\x00\x00" + pixel_bytes.to_bytes(4, "little")


def _elements(kind: Kind) -> Dataset:
    ds = Dataset()
    for part in (who_and_when(kind), _acquisition(kind), _pixel_description(kind)):
        ds.update(part)
    return ds


def who_and_when(kind: Kind) -> Dataset:
    """Return what an instance says of patient, study and equipment."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = kind.sop_class_uid, INSTANCE
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260714"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "141914.000000"
    ds.AccessionNumber = "BENCH1914"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = kind.modality, "Petite Curie", "bench"
    ds.InstitutionName, ds.StationName = "St Elsewhere", "BENCH"
    ds.ReferringPhysicianName = "Joliot^Irene"
    ds.StudyDescription, ds.SeriesDescription = "Bench study", "Bench series"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", "2.25.1914"
    ds.ReferencedStudySequence = [reference]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Bench^Phantom", "BENCH-1914", "19140801", "O"
    ds.PatientAge, ds.PatientWeight = "112Y", "70"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1914", "1", NUMBER
    return ds


def _acquisition(kind: Kind) -> Dataset:
    ds = Dataset()
    if kind.frames > 1:  # Secondary Capture: no geometry
        ds.ConversionType, ds.PageNumberVector = "SYN", list(range(1, kind.frames + 1))
        ds.NumberOfFrames, ds.FrameIncrementPointer = kind.frames, 0x00182001
        return ds
    ds.BodyPartExamined, ds.PatientPosition, ds.SliceThickness = "CHEST", "HFS", "1.25"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = FRAME, ""
    ds.ImagePositionPatient = ["-250.0", "-250.0", POSITION]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.PixelSpacing = ["0.9765625", "0.9765625"]
    if kind.modality == "CT":
        ds.KVP, ds.XRayTubeCurrent, ds.ExposureTime, ds.ConvolutionKernel = "120", "200", "500", "STANDARD"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
    else:
        ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = "GR", "SP", "3D"
        ds.RepetitionTime, ds.EchoTime, ds.FlipAngle, ds.MagneticFieldStrength = "8.2", "3.2", "12", "3"
    private = ds.private_block(0x0019, "PETITE CURIE BENCH", create=True)  # scanners write many of them
    for number in range(PRIVATE_ELEMENTS):
        private.add_new(number, "LO", f"a value of the vendor {number:02d}")
    return ds


def _pixel_description(kind: Kind) -> Dataset:
    ds = Dataset()
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = kind.rows, kind.columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = "1064", "400"
    return ds


def write_part10(instance: Instance, file: Path) -> None:
    """Write an instance as a DICOM file (PS3.10), for senders that read files."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(instance.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(instance.sop_instance_uid)
    meta.TransferSyntaxUID, meta.ImplementationClassUID = UID(EXPLICIT_LE), UID("2.25.1914")
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_file_meta_info(stream, meta)
    with file.open("wb") as out:
        out.write(bytes(128) + b"DICM" + stream.getvalue())
        out.write(instance.head)
        out.write(instance.pixels)

"""Small made-up DICOM series that all tests share: a head of ellipsoids, in any orientation and oddity.

`series()` gives datasets, `write_series()` files. What is odd is asked for by name. No real patient is in
here, and nothing here may ever be shipped to a PACS as an image.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, FileMetaDataset, config, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

CT, MR, PET = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "128"))
ENHANCED_MR, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.2.1"
ROOT = "1.2.826.0.1.3680043.8.498.1914"
ORIENTATIONS: dict[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": (0.96, 0.28, 0, -0.168, 0.576, 0.8),
}
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big": ExplicitVRBigEndian,
    "rle": RLELossless,
    "j2k": JPEG2000Lossless,
    "jls": JPEGLSLossless,
}

Array = npt.NDArray[Any]
Change = Callable[[list[Dataset]], None]


@dataclass(frozen=True)
class Phantom:
    """What series to make; the defaults are a plain axial MR head."""

    slices: int = 12
    rows: int = 40
    columns: int = 34
    orientation: str = "axial"
    spacing: tuple[float, float, float] = (3.0, 1.5, 1.25)  # between slices, rows, columns, mm
    sop_class: str = MR
    series: int = 1  # tells series of one study apart
    study: int = 1


def head(phantom: Phantom) -> Array:
    """Return the stored values (k, j, i), int16: background 0, scalp 200, brain 600, two ventricles 100."""
    shape = (phantom.slices, phantom.rows, phantom.columns)
    k, j, i = (
        np.linspace(-1, 1, n).reshape([-1 if a == axis else 1 for a in range(3)]) for axis, n in enumerate(shape)
    )
    values = np.zeros(shape, np.int16)
    for level, (rk, rj, ri), middle in (
        (200, (1.0, 0.95, 0.95), 0.0),
        (600, (0.85, 0.75, 0.75), 0.0),
        (100, (0.4, 0.35, 0.15), -0.25),
        (100, (0.4, 0.35, 0.15), 0.25),
    ):
        values[(k / rk) ** 2 + (j / rj) ** 2 + ((i - middle) / ri) ** 2 < 1] = level
    return values + (np.arange(phantom.slices, dtype=np.int16).reshape(-1, 1, 1) % 7)


def label_map(phantom: Phantom) -> Array:
    """Return labels (k, j, i), uint8: 1 brain without ventricles, 2 right and 3 left ventricle by column."""
    values = head(phantom)
    labels = np.where(values >= 600, 1, 0).astype(np.uint8)
    inside = (values >= 100) & (values < 110)
    middle = phantom.columns // 2
    labels[:, :, :middle][inside[:, :, :middle]] = 2
    labels[:, :, middle:][inside[:, :, middle:]] = 3
    return labels


def uid(*parts: int) -> str:
    """Return a fixed UID of these numbers."""
    return ".".join([ROOT, *(str(part) for part in parts)])


def axes(phantom: Phantom) -> tuple[Array, Array, Array]:
    """Return the steps in mm from voxel to voxel along (k, j, i)."""
    row = np.array(ORIENTATIONS[phantom.orientation][:3], float)
    column = np.array(ORIENTATIONS[phantom.orientation][3:], float)
    between_slices, between_rows, between_columns = phantom.spacing
    return np.cross(row, column) * between_slices, column * between_rows, row * between_columns


def affine(phantom: Phantom) -> Array:
    """Return 4×4, (k, j, i, 1) → LPS mm: the truth that readers must find."""
    found = np.eye(4)
    found[:3, 0], found[:3, 1], found[:3, 2] = axes(phantom)
    found[:3, 3] = (-12.5, 7.25, -40.0)
    return found


def series(phantom: Phantom | None = None, change: Change | None = None, **text: str) -> list[Dataset]:
    """Return classic single-frame images, one a slice in order; `text` sets attributes by keyword."""
    phantom = phantom or Phantom()
    values = head(phantom)
    found = [_image(phantom, k, values[k]) for k in range(phantom.slices)]
    for ds in found:
        for keyword, value in text.items():
            setattr(ds, keyword, value)
    if change:
        change(found)
    return found


def _image(phantom: Phantom, k: int, values: Array) -> Dataset:
    ds = _patient_and_study(phantom)
    ds.SOPClassUID, ds.SOPInstanceUID = phantom.sop_class, uid(phantom.study, phantom.series, k + 1)
    ds.InstanceNumber = k + 1
    position = affine(phantom) @ (k, 0, 0, 1)
    ds.ImagePositionPatient = [round(float(x), 6) for x in position[:3]]
    ds.ImageOrientationPatient = list(ORIENTATIONS[phantom.orientation])
    ds.PixelSpacing = list(phantom.spacing[1:])
    ds.SliceThickness = phantom.spacing[0]
    if phantom.sop_class in (CT, PET):
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024" if phantom.sop_class == CT else "0", "1", "HU"
    _set_pixels(ds, values)
    return ds


def _patient_and_study(phantom: Phantom) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M"] if phantom.sop_class == MR else ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate, ds.StudyTime = "20240229", "101500"
    ds.SeriesDate, ds.SeriesTime = "20240229", "102000"
    ds.ContentDate, ds.ContentTime = "20240229", "102100"
    ds.AcquisitionDate, ds.AcquisitionTime = "20240229", "102000"
    ds.AccessionNumber, ds.StudyID = "A1914", "1"
    ds.Modality = {CT: "CT", PET: "PT", ENHANCED_CT: "CT"}.get(phantom.sop_class, "MR")
    ds.Manufacturer, ds.ManufacturerModelName = "Phantom Works", "Ellipsoid"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "7", "1.0"
    ds.InstitutionName, ds.StudyDescription = "St Elsewhere", "Head"
    ds.SeriesDescription, ds.ProtocolName = "T1 SAG MPRAGE", "HEAD"
    ds.ReferringPhysicianName = "Sklodowska^M"
    ds.PatientName, ds.PatientID = "Phantom^Head", "PH-1"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "18671107", "F", "056Y"
    ds.BodyPartExamined, ds.PatientPosition = "BRAIN", "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(phantom.study), uid(phantom.study, phantom.series)
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid(phantom.study, 99), ""
    ds.SeriesNumber, ds.AcquisitionNumber = phantom.series, 1
    _modality(ds, phantom.sop_class)
    return ds


def _modality(ds: Dataset, sop_class: str) -> None:
    if sop_class == MR:
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "GR", "SP", "PFP"
        ds.MRAcquisitionType, ds.EchoTime, ds.RepetitionTime = "3D", "2.5", "2000"
        ds.EchoTrainLength, ds.FlipAngle, ds.InversionTime = 1, "9", "900"
    elif sop_class == CT:
        ds.KVP = "120"


def _set_pixels(ds: Dataset, values: Array) -> None:
    """Put stored values (rows, columns) or (frames, rows, columns) into the image."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = values.shape[-2:]
    if values.dtype.kind == "f":
        ds.BitsAllocated = values.dtype.itemsize * 8
        ds.FloatPixelData = values.astype("<f4").tobytes()
        return
    bits = values.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(values.dtype.kind == "i")
    ds.PixelData = padded(values.astype(values.dtype.newbyteorder("<")).tobytes())
    ds["PixelData"].VR = "OW"


def set_pixels(ds: Dataset, values: Array) -> None:
    """Replace the stored values; their dtype decides depth and signedness."""
    for keyword in ("PixelData", "FloatPixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        if keyword in ds:
            delattr(ds, keyword)
    _set_pixels(ds, values)


def padded(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


def enhanced(phantom: Phantom | None = None, shuffle: Sequence[int] | None = None) -> Dataset:
    """Return one enhanced multi-frame image of the same head; `shuffle` is the order of its frames."""
    phantom = phantom or Phantom()
    order = list(shuffle or range(phantom.slices))
    ds = _patient_and_study(phantom)
    ds.SOPClassUID = ENHANCED_CT if phantom.sop_class in (CT, ENHANCED_CT) else ENHANCED_MR
    ds.Modality = "CT" if ds.SOPClassUID == ENHANCED_CT else "MR"
    ds.SOPInstanceUID, ds.InstanceNumber = uid(phantom.study, phantom.series, 1), 1
    for keyword in ("ScanningSequence", "SequenceVariant", "ScanOptions", "EchoTime", "RepetitionTime"):
        if keyword in ds:
            delattr(ds, keyword)
    _set_pixels(ds, head(phantom)[order])
    ds.NumberOfFrames = len(order)
    ds.SharedFunctionalGroupsSequence = [_shared(phantom)]
    ds.PerFrameFunctionalGroupsSequence = [_frame(phantom, k, n) for n, k in enumerate(order, 1)]
    return ds


def _shared(phantom: Phantom) -> Dataset:
    measures, orientation, item = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(phantom.spacing[1:]), phantom.spacing[0]
    orientation.ImageOrientationPatient = list(ORIENTATIONS[phantom.orientation])
    item.PixelMeasuresSequence, item.PlaneOrientationSequence = [measures], [orientation]
    return item


def _frame(phantom: Phantom, k: int, number: int) -> Dataset:
    position, content, rescale, item = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [round(float(x), 6) for x in (affine(phantom) @ (k, 0, 0, 1))[:3]]
    content.DimensionIndexValues, content.TemporalPositionIndex = [1, number], 1
    rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = "0", "1", "US"
    item.PlanePositionSequence, item.FrameContentSequence = [position], [content]
    item.PixelValueTransformationSequence = [rescale]
    return item


def part10(ds: Dataset, syntax: str = "explicit", *, undefined_lengths: bool = False) -> bytes:
    """Return a complete file in one of SYNTAXES; the dataset is not changed."""
    with quiet():
        copy = deepcopy(ds)
    if undefined_lengths:
        _undefine(copy)
    if syntax in ("rle", "j2k", "jls"):
        _compress(copy, syntax)
    elif syntax == "big" and "PixelData" in copy:
        copy.PixelData = np.frombuffer(copy.PixelData, "<u2").astype(">u2").tobytes()
        copy["PixelData"].VR = "OW"
    return _written(copy, syntax)


@contextmanager
def quiet() -> Iterator[None]:
    """Let odd values pass that a test put there on purpose."""
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def _undefine(ds: Dataset) -> None:
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True


def _compress(ds: Dataset, syntax: str) -> None:
    frames = int(ds.get("NumberOfFrames", 1))
    size = len(ds.PixelData) // frames
    encoder = get_encoder(SYNTAXES[syntax])
    plugin = {"rle": "pylibjpeg", "j2k": "pylibjpeg", "jls": "pyjpegls"}[syntax]
    parts = []
    for n in range(frames):
        values = np.frombuffer(
            ds.PixelData[n * size : (n + 1) * size], f"<{'i' if ds.PixelRepresentation else 'u'}{ds.BitsAllocated // 8}"
        )
        parts.append(encoder.encode(values.reshape(ds.Rows, ds.Columns), encoding_plugin=plugin, **_description(ds)))
    ds.PixelData = encapsulate(parts)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True


def _description(ds: Dataset) -> dict[str, Any]:
    return {
        "rows": ds.Rows, "columns": ds.Columns, "samples_per_pixel": 1, "number_of_frames": 1,
        "bits_allocated": ds.BitsAllocated, "bits_stored": ds.BitsStored,
        "pixel_representation": ds.PixelRepresentation, "photometric_interpretation": ds.PhotometricInterpretation,
    }  # fmt: skip


def _written(ds: Dataset, syntax: str) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    buffer = io.BytesIO()
    with quiet():
        dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def write_series(folder: Path, datasets: Sequence[Dataset], syntax: str = "explicit") -> list[Path]:
    """Write one file a dataset into the folder, named so that name order is not slice order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n, ds in enumerate(datasets):
        path = folder / f"{n * 7919 % 997:03d}-{n}.dcm"
        path.write_bytes(part10(ds, syntax))
        paths.append(path)
    return paths


def missing_slice(images: list[Dataset]) -> None:
    del images[4]


def duplicate_position(images: list[Dataset]) -> None:
    images[4].ImagePositionPatient = images[3].ImagePositionPatient


def mixed_orientation(images: list[Dataset]) -> None:
    images[0].ImageOrientationPatient = list(ORIENTATIONS["coronal"])


def mixed_size(images: list[Dataset]) -> None:
    set_pixels(images[0], np.zeros((images[0].Rows + 2, images[0].Columns), np.int16))


def nan_spacing(images: list[Dataset]) -> None:
    for ds in images:
        del ds.PixelSpacing
        ds.add(raw_element(0x00280030, "DS", b"nan\\nan "))


def monochrome1(images: list[Dataset]) -> None:
    for ds in images:
        ds.PhotometricInterpretation = "MONOCHROME1"


def own_frame_of_reference(images: list[Dataset]) -> None:
    """Give each image a Frame of Reference of its own, as some old scanners do."""
    for n, ds in enumerate(images):
        ds.FrameOfReferenceUID = uid(77, n)


def leading_zero_uids(images: list[Dataset]) -> None:
    """Write UIDs with a leading zero in a component, which PS3.5 Section 9.1 forbids and PACS still hold."""
    with quiet():
        for n, ds in enumerate(images):
            ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.007", f"{ROOT}.007.01"
            ds.SOPInstanceUID, ds.FrameOfReferenceUID = f"{ROOT}.007.01.0{n}", f"{ROOT}.007.099"


def raw_element(tag: int, vr: str, value: bytes) -> Any:
    """Return an element exactly as bytes; it is written as it stands."""
    return RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


CHARACTER_SETS: dict[str, tuple[str, bytes, str]] = {  # name → Specific Character Set, bytes, the name in Unicode
    "french": ("ISO_IR 100", "Müller^Zoé".encode("latin-1"), "Müller^Zoé"),
    "polish": ("ISO_IR 101", "Skłodowska^Łucja".encode("iso8859-2"), "Skłodowska^Łucja"),
    "cyrillic": ("ISO_IR 144", "Люкceмбypг^Ия".encode("iso8859-5"), "Люкceмбypг^Ия"),
    "arabic": ("ISO_IR 127", "قباني^لنزار".encode("iso8859-6"), "قباني^لنزار"),
    "chinese": ("GB18030", "王^小东".encode("gb18030"), "王^小东"),
    "unicode": ("ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
    "japanese": (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
        "Yamada^Tarou=山田^太郎",
    ),
    "korean": (
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
        "Hong^Gildong=洪^吉洞",
    ),
}


def with_character_set(ds: Dataset, name: str) -> Dataset:
    """Return the image with a patient name in a character set, as bytes on disk."""
    terms, value, _ = CHARACTER_SETS[name]
    copy = deepcopy(ds)
    for keyword in ("SpecificCharacterSet", "PatientName"):
        delattr(copy, keyword)
    copy.add(raw_element(0x00080005, "CS", _even(terms.encode(), b" ")))
    copy.add(raw_element(0x00100010, "PN", _even(value, b" ")))
    return copy


def _even(value: bytes, pad: bytes) -> bytes:
    return value + pad * (len(value) % 2)

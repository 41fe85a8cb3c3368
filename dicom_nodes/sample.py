"""The sample study of the demo: the MNI152 T1 template as a DICOM MR series. A real head, averaged over 152 people.

The template ships inside the nilearn wheel; nothing of nilearn is run. Patient and study are made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from appliance.errors import Missing
from appliance.job import derived_uid
from appliance.volume import Array

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
TEMPLATE = "mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
STUDY_DATE, STUDY_TIME = "20090101", "120000"
FULL_SCALE = 255.0  # of the template's files
BRIGHTEST = 1000  # stored value of the template's maximum


def template_file(kind: str) -> Path:
    """Return the file of the template: kind is t1, gm or wm. Raises Missing."""
    found = find_spec("nilearn")
    places = list(found.submodule_search_locations or []) if found else []
    for place in places:
        file = Path(place) / "datasets" / "data" / TEMPLATE.format(kind=kind)
        if file.exists():
            return file
    raise Missing("the sample is not here: it ships inside the nilearn wheel; run `make setup`")


def template_axial(kind: str) -> tuple[Array, np.ndarray]:
    """Return (voxels (k, j, i) float32, affine 4×4 (k, j, i, 1) → LPS mm): axial slices, feet to head.

    Voxels are 0…1: of the brightest for "t1", the probability of the tissue for "gm" and "wm".
    """
    image = nibabel.as_closest_canonical(nibabel.load(template_file(kind)))  # type: ignore[no-untyped-call]  # (x, y, z) right-left, RAS mm
    voxels = np.asarray(image.dataobj, dtype=np.float32) / FULL_SCALE
    voxels = voxels.transpose(2, 1, 0)[:, ::-1, ::-1]
    x, y = image.shape[:2]
    spacing = image.header.get_zooms()[:3]
    first = image.affine @ [x - 1, y - 1, 0, 1]  # RAS centre of voxel (k 0, j 0, i 0)
    affine = np.zeros((4, 4))
    affine[:3, 0] = [0, 0, spacing[2]]
    affine[:3, 1] = [0, spacing[1], 0]
    affine[:3, 2] = [spacing[0], 0, 0]
    affine[:4, 3] = [-first[0], -first[1], first[2], 1]
    return np.ascontiguousarray(voxels), affine


def write_sample(folder: Path, study_key: str = "sample") -> list[Path]:
    """Write the sample as one MR series; another `study_key` gives another study of the same head."""
    return write_series(folder, *template_axial("t1"), study_key)


def write_series(folder: Path, voxels: Array, affine: np.ndarray, study_key: str, **replaced: str) -> list[Path]:
    """Write voxels (k, j, i), at least 0, as one axial MR series; `affine` as of `template_axial`.

    `replaced`: attributes by keyword that are to differ from the sample's.
    """
    stored = np.rint(voxels * (BRIGHTEST / voxels.max())).clip(0, BRIGHTEST).astype("<u2")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ds in _slices(stored, affine, study_key):
        for keyword, value in replaced.items():
            setattr(ds, keyword, value)
        path = folder / f"{ds.InstanceNumber:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _slices(stored: np.ndarray, affine: np.ndarray, key: str) -> Iterator[Dataset]:
    for k in range(len(stored)):
        ds = _header(key)
        ds.SOPInstanceUID = derived_uid(key, "instance", k)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [f"{v:.6g}" for v in (affine @ [k, 0, 0, 1])[:3]]
        ds.PixelSpacing = [f"{affine[1, 1]:.6g}", f"{affine[0, 2]:.6g}"]
        ds.SliceThickness = f"{affine[2, 0]:.6g}"
        ds.Rows, ds.Columns = stored.shape[1:]
        ds.PixelData = stored[k].tobytes()
        yield ds


def _header(key: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = UID(MR_IMAGE_STORAGE)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.SOPClassUID = MR_IMAGE_STORAGE
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = STUDY_DATE
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = STUDY_TIME
    ds.AccessionNumber = "DEMO"
    ds.Modality = "MR"
    ds.Manufacturer = "McConnell Brain Imaging Centre"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "MNI152 template, an average of 152 heads"
    ds.SeriesDescription = "T1, averaged, skull removed"
    ds.PatientName = "MNI152^Template"
    ds.PatientID = "MNI152"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.BodyPartExamined = "BRAIN"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "RM", "NONE", ""
    ds.MRAcquisitionType = "3D"
    ds.EchoTime = ds.RepetitionTime = ds.EchoTrainLength = None
    ds.StudyInstanceUID = derived_uid(key, "study")
    ds.SeriesInstanceUID = derived_uid(key, "series")
    ds.FrameOfReferenceUID = derived_uid(key, "frame of reference")
    ds.StudyID, ds.SeriesNumber = "1", 1
    ds.PatientPosition, ds.PositionReferenceIndicator = "HFS", ""
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.WindowCenter, ds.WindowWidth = BRIGHTEST / 2, BRIGHTEST
    return ds

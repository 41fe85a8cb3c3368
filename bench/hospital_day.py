"""What a hospital sends in its busiest hours: the profile by which MONAI Deploy tests its gateway, four times over.

Its README counts 120 X-ray, 50 ultrasound, 30 CT and 25 MR studies in an hour; four times that for twenty minutes is
160, 67, 40 and 33. X-ray and ultrasound images have no place in the patient, as real ones have none. Everything comes
from a seed: a study of a kind and number has the same bytes in every process.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from bench import datasets
from bench.datasets import FRAME, INSTANCE, MARK_BYTES, NUMBER, POSITION, SERIES, STUDY, Instance
from dicom_nodes.sample import template_axial

MINUTES = 20  # in which the studies of KINDS come
SEED = 1914
REAL_SHARE = 10  # a package that ships reads every tenth study
PATIENT, ACCESSION = "BENCH-1914", "BENCH1914"  # replaced in each study
Pixels = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Kind:
    """One kind of study, with one series of images of one size."""

    name: str
    sop_class_uid: str
    modality: str
    studies: int
    images: int
    rows: int
    columns: int
    slice_mm: float = 0.0  # 0: the images have no place in the patient
    region: str = ""  # Body Part Examined of the studies that a package which ships reads

    def scaled(self, share: float) -> Kind:
        """Return the kind with a share of its studies, one at least."""
        return replace(self, studies=max(1, round(self.studies * share)))


KINDS = (
    Kind("x-ray", "1.2.840.10008.5.1.4.1.1.1.1", "DX", 160, 2, 2500, 2048),
    Kind("ultrasound", "1.2.840.10008.5.1.4.1.1.6.1", "US", 67, 10, 768, 1024),
    Kind("ct of 60", "1.2.840.10008.5.1.4.1.1.2", "CT", 20, 60, 512, 512, 2.5, "CHEST"),
    Kind("ct of 500", "1.2.840.10008.5.1.4.1.1.2", "CT", 20, 500, 512, 512, 0.7, "CHEST"),
    Kind("mr of 200", "1.2.840.10008.5.1.4.1.1.4", "MR", 33, 200, 256, 256, 1.0, "BRAIN"),
)
OTHER_REGION = {"CHEST": "THIGH", "BRAIN": "HEART"}  # of the others: as long, for they replace each other


@dataclass(frozen=True)
class Planned:
    """One study: when it comes, and whether a package that ships reads it."""

    at_s: float
    kind: Kind
    number: int
    real: bool

    @property
    def key(self) -> str:
        """Name of the study, from which its UIDs come."""
        return f"{self.kind.name}/{self.number}"

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID of what `instances` makes."""
        return datasets.own_uid(self.key, "study")

    @property
    def sop_instance_uids(self) -> list[str]:
        """SOP Instance UIDs of what `instances` makes, in its order."""
        return [datasets.own_uid(self.key, f"instance {image}") for image in range(self.kind.images)]


def plan(kinds: Sequence[Kind], seconds: float) -> list[Planned]:
    """Return the studies in the order in which they come, at times drawn from a seed.

    A tenth of all are for packages that ship, and those read CT and MR alone: so more than a tenth of these.
    """
    chance = random.Random(SEED)
    readable = sum(kind.studies for kind in kinds if kind.region)
    wanted = sum(kind.studies for kind in kinds) / REAL_SHARE
    found, seen = [], 0
    for kind in kinds:
        for number in range(kind.studies):
            real = False
            if kind.region:
                seen += 1
                real = int(seen * wanted / readable) > int((seen - 1) * wanted / readable)
            found.append(Planned(chance.uniform(0, seconds), kind, number, real))
    return sorted(found, key=lambda one: one.at_s)


def instances(planned: Planned) -> list[Instance]:
    """Return the images of a study; what they share lies in memory once."""
    kind, key = planned.kind, planned.key
    own = {STUDY: planned.study_instance_uid, SERIES: datasets.own_uid(key, "series")}
    own |= {FRAME: datasets.own_uid(key, "frame of reference")}
    number = int(planned.study_instance_uid[-4:])
    own |= {PATIENT: f"BENCH-{number:04d}", ACCESSION: f"BENCH{number:04d}"}
    if kind.region and not planned.real:
        own[kind.region] = OTHER_REGION[kind.region]
    head, pictures = _template(kind)
    found = []
    for image, uid in enumerate(planned.sop_instance_uids):
        one = own | {INSTANCE: uid, NUMBER: f"{image + 1:08d}", POSITION: f"{kind.slice_mm * image:+08.2f}"}
        pixels = pictures[image % len(pictures)].data.cast("B")[MARK_BYTES:]
        content = datasets.replaced(head, one) + datasets.mark(uid)
        found.append(Instance(kind.sop_class_uid, uid, own[STUDY], content, pixels))
    return found


@lru_cache(maxsize=len(KINDS) * 2)
def _template(kind: Kind) -> tuple[bytes, list[Pixels]]:
    """Return (elements of an image up to its Pixel Data, pixels of each image, or of all)."""
    pictures = {"CT": _chest, "MR": _head}.get(kind.modality, _grey)(kind)
    return datasets.encoded(_elements(kind), 2 * kind.rows * kind.columns), pictures


def _elements(kind: Kind) -> Dataset:
    ds = datasets.who_and_when(datasets.Kind(kind.sop_class_uid, kind.modality, kind.rows, kind.columns))
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = kind.rows, kind.columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    if not kind.slice_mm:
        return ds
    spacing = "0.78125" if kind.modality == "CT" else "1.0"
    ds.BodyPartExamined, ds.PatientPosition, ds.SliceThickness = kind.region, "HFS", f"{kind.slice_mm:g}"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = FRAME, ""
    ds.ImagePositionPatient = ["-100.0", "-100.0", POSITION]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.PixelSpacing = [spacing, spacing]
    if kind.modality == "CT":
        ds.KVP, ds.ConvolutionKernel = "120", "STANDARD"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
    else:
        ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = "GR", "SP", "3D"
        ds.SeriesDescription = "t1 mprage"
    return ds


def _noise(kind: Kind, around: npt.NDArray[np.float64] | float, deviation: float) -> Pixels:
    values = np.random.default_rng(SEED).normal(around, deviation, (kind.rows, kind.columns))
    return values.clip(0, 4095).astype(np.uint16)


def _grey(kind: Kind) -> list[Pixels]:
    return [_noise(kind, 2000, 300)]


def _chest(kind: Kind) -> list[Pixels]:
    """Return one slice for all: a body with two lungs. Stored values are HU + 1024."""
    y, x = np.mgrid[-1 : 1 : kind.rows * 1j, -1 : 1 : kind.columns * 1j]
    body = (x / 0.9) ** 2 + (y / 0.65) ** 2 < 1
    lungs = ((abs(x) - 0.4) / 0.3) ** 2 + (y / 0.45) ** 2 < 1
    return [_noise(kind, np.where(lungs, 174.0, np.where(body, 1064.0, 24.0)), 15)]


def _head(kind: Kind) -> list[Pixels]:
    """Return the averaged head of the demo's sample, with air around it."""
    voxels, _ = template_axial("t1")
    stored = np.rint(voxels * 1000).astype(np.uint16)
    whole = np.zeros((kind.images, kind.rows, kind.columns), np.uint16)
    first = [(wide - narrow) // 2 for wide, narrow in zip(whole.shape, stored.shape, strict=True)]
    if min(first) < 0:  # a short series for trials
        return list(stored[:: -(-len(stored) // kind.images), : kind.rows, : kind.columns])
    k, j, i = first
    whole[k : k + stored.shape[0], j : j + stored.shape[1], i : i + stored.shape[2]] = stored
    return list(whole)

"""One result object by one writer, in a process of its own: CPU seconds, bytes, peak memory, and whether voxels hold.

`python -m bench.results_run SUBJECT KIND SLICES SEGMENTS`. Voxels are read back after the peak was taken.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from appliance.finding import ML, VOLUME, Code, Finding, Measurement
from appliance.job import ResultContext
from appliance.study import FrameGeometry
from appliance.volume import SourceFrame, Volume
from bench.processes import forget_peaks, peak_mb
from dicom_nodes.codes import concept
from dicom_nodes.label_maps import LabelMap
from dicom_nodes.report import write_report
from dicom_nodes.segmentation import segment_references, write_segmentation
from dicom_nodes.source import SourceHeaders

SIDE, SPACING_MM = 512, 0.8
ANATOMY, ORGAN = Code("91723000", "SCT", "Anatomical Structure"), Code("113343008", "SCT", "Organ")


def labels_of(slices: int, segments: int) -> LabelMap:
    """Return blobs, each in a quarter of the slices, no two in one place: (slices, 512, 512) uint8."""
    random = np.random.default_rng(1914)
    labels = np.zeros((slices, SIDE, SIDE), np.uint8)
    depth, grid = max(2, slices // 4), 12
    for n in range(segments):
        k = int(random.integers(0, slices - depth + 1))
        row, column = (40 * (n // grid) + 6, 40 * (n % grid) + 6)
        y, x = np.mgrid[:38, :38]
        blob = (y - 19) ** 2 + (x - 19) ** 2 < random.integers(60, 340)
        labels[k : k + depth, row : row + 38, column : column + 38][:, blob] = n + 1
    return labels


def images_of(slices: int) -> list[Dataset]:
    """Return headers of a CT series as a writer gets them."""
    study, series, frame = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["series"]), "1.2.3.4"
    images = []
    for k in range(slices):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"1.2.3.4.5.{k + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^Body", "P1", "19600101", "O"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240101", "120000", "1", "A1"
        ds.ReferringPhysicianName, ds.Modality, ds.Manufacturer = "", "CT", "Bench"
        ds.Rows, ds.Columns, ds.InstanceNumber = SIDE, SIDE, k + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0.0, 0.0, float(k)], [1.0, 0, 0, 0, 1.0, 0]
        ds.PixelSpacing, ds.SliceThickness = [SPACING_MM, SPACING_MM], 1.0
        ds.BitsAllocated = ds.BitsStored = 16
        images.append(ds)
    return images


def findings_of(labels: LabelMap, segments: int) -> list[Finding]:
    """Return a finding for each label, with its volume."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return [
        Finding(n, f"Structure {n}", ANATOMY, ORGAN, None, (n * 2 % 256, 80, 200),
                (Measurement(VOLUME, counts[n] * SPACING_MM**2 / 1000, ML),), f"1.2.3.9.{n}", int(counts[n]))
        for n in range(1, segments + 1)
    ]  # fmt: skip


def ours(kind: str, labels: LabelMap, images: list[Dataset], segments: int) -> Callable[[], bytes]:
    """Return what writes the object as the appliance does."""
    frames = tuple(SourceFrame(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in images)
    planes = tuple(
        FrameGeometry(str(ds.SOPInstanceUID), SIDE, SIDE, tuple(ds.ImagePositionPatient),
                      tuple(ds.ImageOrientationPatient), tuple(ds.PixelSpacing))
        for ds in images
    )  # fmt: skip
    header = Dataset()
    for element in images[0]:
        header.add(element)
    source = SourceHeaders(header, planes, frames)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 1.0, SPACING_MM, SPACING_MM, 1.0
    voxels = np.zeros((1, 1, 1), np.int16)
    volume = Volume(np.broadcast_to(voxels, labels.shape), affine, frames, str(header.SeriesInstanceUID), "1.2.3.4",
                    modality="CT")  # fmt: skip
    context = ResultContext(
        "bench", "2.25.1", "0", "00000000-0000-5000-8000-000000000000", "bench", "1.0.0", "d" * 64, "Bench",
        "openvino", "f32", datetime(2024, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    found = findings_of(labels, segments)
    if kind == "SEG":
        return lambda: write_segmentation(labels, volume, found, source, context)
    return lambda: write_report(found, labels, volume, source, context, segment_references(found, context))


def plain(kind: str, labels: LabelMap, images: list[Dataset], segments: int) -> Callable[[], bytes]:
    """Return what writes the object as highdicom's documentation does, from a label map of uint8."""
    found = findings_of(labels, segments)
    algorithm = hd.AlgorithmIdentificationSequence("bench", concept(Code("123110", "DCM", "AI")), "1.0.0")
    described = [
        hd.seg.SegmentDescription(
            one.segment_number, one.name, concept(ANATOMY), concept(ORGAN),
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm, tracking_uid=one.tracking_uid, tracking_id=one.name,
        )
        for one in found
    ]  # fmt: skip
    device: dict[str, Any] = {
        "series_instance_uid": "1.2.3.5", "series_number": 2, "sop_instance_uid": "1.2.3.6", "instance_number": 1,
        "manufacturer": "Bench",
    }  # fmt: skip

    def segmentation(pixels: LabelMap) -> hd.seg.Segmentation:
        return hd.seg.Segmentation(
            images, pixels, hd.seg.SegmentationTypeValues.BINARY, described, manufacturer_model_name="bench",
            software_versions="0", device_serial_number="1", **device,
        )  # fmt: skip

    def saved(ds: Dataset) -> bytes:
        held = io.BytesIO()
        ds.save_as(held)
        return held.getvalue()

    if kind == "SEG":
        return lambda: saved(segmentation(labels))
    held = Dataset()
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
                    "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"):  # fmt: skip
        setattr(held, keyword, images[0][keyword].value)
    held.SOPClassUID, held.SOPInstanceUID, held.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.3.6", "1.2.3.5"

    def report() -> Dataset:
        groups = [
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                hd.sr.TrackingIdentifier(one.tracking_uid, one.name),
                referenced_segment=hd.sr.ReferencedSegment(
                    held.SOPClassUID, held.SOPInstanceUID, one.segment_number,
                    source_series=hd.sr.SourceSeriesForSegmentation(images[0].SeriesInstanceUID),
                ),
                finding_type=concept(ORGAN),
                measurements=[hd.sr.Measurement(concept(m.name), m.value, concept(m.unit)) for m in one.measurements],
            )
            for one in found
        ]  # fmt: skip
        observer = hd.sr.ObserverContext(
            concept(Code("121007", "DCM", "Device")), hd.sr.DeviceObserverIdentifyingAttributes("1.2.3.7")
        )
        content = hd.sr.MeasurementReport(
            hd.sr.ObservationContext(observer_device_context=observer),
            concept(Code("77477000", "SCT", "Computed tomography")), groups, referenced_images=images,
        )  # fmt: skip
        return hd.sr.Comprehensive3DSR(
            evidence=[*images, held], content=content[0], is_complete=True, **device
        )  # fmt: skip

    return lambda: saved(report())


def holds(content: bytes, labels: LabelMap) -> bool:
    """Tell whether the frames of a Segmentation, by their positions, are the label map."""
    ds = dcmread(io.BytesIO(content))
    found = np.zeros_like(labels)
    bits = np.frombuffer(ds.PixelData, np.uint8)
    size = SIDE * SIDE
    shared = ds.SharedFunctionalGroupsSequence[0]  # of a single segment, highdicom shares its identification
    for n, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        k = round(float(item.PlanePositionSequence[0].ImagePositionPatient[2]))
        mask = np.unpackbits(bits[n * size // 8 : (n + 1) * size // 8], bitorder="little").astype(bool)
        of_segment = item if "SegmentIdentificationSequence" in item else shared
        found[k].ravel()[mask] = of_segment.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    return bool(np.array_equal(found, labels))


def main(subject: str, kind: str, slices: int, segments: int) -> None:
    """Print one row of figures."""
    warnings.simplefilter("ignore")
    labels, images = labels_of(slices, segments), images_of(slices)
    write = (ours if subject == "curie" else plain)(kind, labels, images, segments)
    small_labels, small = labels_of(4, 1), images_of(4)
    (ours if subject == "curie" else plain)(kind, small_labels, small, 1)()  # what is loaded once stays out
    forget_peaks(os.getpid())
    cpu = time.process_time()
    content = write()
    spent = time.process_time() - cpu
    row: dict[str, Any] = {"cpu_s": round(spent, 3), "mb": round(len(content) / 1e6, 3)}
    row |= {"peak_rss_mb": round(peak_mb(os.getpid())[os.getpid()], 1)}
    if kind == "SEG":
        row["same_voxels"] = holds(content, labels)
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

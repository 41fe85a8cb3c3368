"""Datasets as bytes: what pydicom writes, for every VR that results have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_nodes import elements
from dicom_nodes.contour_set import write_contours
from dicom_nodes.presentation import write_presentation
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.report import write_report
from dicom_nodes.segmentation import segment_references, write_segmentation
from tests import phantoms
from tests.dicom_nodes.test_pictures_and_documents import parsed
from tests.made_up import context, findings, read_phantom


def by_pydicom(ds: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, ds, "ISO_IR 192")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["japanese", "arabic", "cyrillic"])
def test_results_are_written_as_pydicom_writes_them(tmp_path: Path, name: str) -> None:
    images = [phantoms.with_character_set(ds, name) for ds in phantoms.series()]
    labels, volume, source = read_phantom(tmp_path, images=images)
    made, found = context(), findings(context())
    for file in (
        write_segmentation(labels, volume, found, source, made),
        write_report(found, labels, volume, source, made, segment_references(found, made)),
        write_contours(labels, volume, found, source, made),
        write_presentation(labels, volume, found, source, made),
    ):
        with lenient():
            ds = parsed(file)
            assert elements.dataset(ds) == by_pydicom(ds)


def test_numbers_lists_tags_and_empty_values() -> None:
    ds = Dataset()
    ds.PatientName, ds.PatientSize, ds.ImageType = "Ångström^A", "1.70", ["DERIVED", "SECONDARY"]
    ds.Rows, ds.GraphicData, ds.ReferencedFrameNumber = 7, [0.5, 1.25], [1, 2]
    ds.FrameIncrementPointer, ds.PixelSpacing, ds.AccessionNumber = 0x00181063, [0.1, 1 / 3], ""
    ds.add_new(0x00420011, "OB", b"abc")
    ds.RecommendedDisplayCIELabValue = [1, 2, 65535]
    ds.SpacingBetweenSlices = np.float64(2.5)
    ds.ContentSequence = []
    assert elements.dataset(ds) == by_pydicom(ds)

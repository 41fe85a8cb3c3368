"""Values of a dataset, whether pydicom has converted them already or not."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from dicom_nodes.header import read_header
from dicom_nodes.values import text
from tests.phantoms import Phantom, part10, series

PATIENT_NAME, IMAGE_TYPE = 0x00100010, 0x00080008


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_name_is_one_text_and_several_values_keep_their_backslash(looked_at: bool) -> None:
    ds = series(Phantom(slices=1))[0]
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    received: Dataset = read_header(part10(ds))
    if looked_at:
        assert received.PatientName  # pydicom converts on this
        assert received.ImageType
    assert (text(received, PATIENT_NAME), text(received, IMAGE_TYPE)) == ("Phantom^Head", "ORIGINAL\\PRIMARY")

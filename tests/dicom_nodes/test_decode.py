"""Pixels: checked before they are decoded, decoded in a child with limits, and what breaks it stays there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from appliance.errors import StudyBlocked
from dicom_nodes.decode import Limits, decode_in_child, decoded_pixel_digest
from dicom_nodes.pixels import check_pixels
from tests import phantoms
from tests.phantoms import part10


def image() -> Dataset:
    return phantoms.series()[3]


def changed(**values: object) -> Dataset:
    ds = image()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def test_what_a_header_announces() -> None:
    layout = check_pixels(image(), 40 * 34 * 2)
    assert (layout.total_bytes, layout.frame_bytes, layout.signed) == (2720, 2720, True)
    assert layout.dtype() == np.dtype("<i2")


@pytest.mark.parametrize(
    ("ds", "sentence"),
    [
        (changed(Rows=65535, Columns=65535), "8 GiB|7 GiB"),
        (changed(NumberOfFrames=2_000_000_000), "GiB are announced"),
        (changed(BitsAllocated=3), "3 bits allocated"),
        (changed(BitsStored=17), "bits stored"),
        (changed(SamplesPerPixel=3), "photometric"),
        (changed(PhotometricInterpretation="XYZ"), "photometric"),
        (changed(Rows=0), "no rows"),
    ],
)
def test_headers_that_cannot_be_true(ds: Dataset, sentence: str) -> None:
    with pytest.raises(StudyBlocked, match=sentence):
        check_pixels(ds)


@pytest.mark.parametrize("there", [0, 2719, 2721, 5440])
def test_native_pixels_must_be_exactly_as_many_as_announced(there: int) -> None:
    with pytest.raises(StudyBlocked, match=f"{there} bytes are there, 2720 are announced"):
        check_pixels(image(), there)


def test_an_odd_number_of_bytes_has_one_pad_byte() -> None:
    ds = image()
    phantoms.set_pixels(ds, np.zeros((3, 5), np.uint8))
    assert check_pixels(ds, 16).total_bytes == check_pixels(ds, 15).total_bytes == 15
    with pytest.raises(StudyBlocked):
        check_pixels(ds, 17)


def test_one_child_decodes_a_series_of_mixed_syntaxes(tmp_path: Path) -> None:
    images = phantoms.series()
    paths = []
    for n, syntax in enumerate(("rle", "j2k", "jls")):
        paths.append(tmp_path / syntax)
        paths[-1].write_bytes(part10(images[n], syntax))
    found = decode_in_child(paths, folder=tmp_path)
    truth = phantoms.head(phantoms.Phantom())
    for n, values in enumerate(found):
        assert values.dtype == np.int16
        assert np.array_equal(values, truth[n : n + 1])
    assert sorted(os.listdir(tmp_path)) == ["j2k", "jls", "rle"]


def test_multi_frame(tmp_path: Path) -> None:
    path = tmp_path / "enhanced"
    path.write_bytes(part10(phantoms.enhanced(), "jls"))
    assert np.array_equal(decode_in_child([path])[0], phantoms.head(phantoms.Phantom()))


def broken(change: Callable[[bytes], bytes], tmp_path: Path, syntax: str = "rle", side: int = 40) -> Path:
    path, ds = tmp_path / "broken", image()
    phantoms.set_pixels(ds, np.zeros((side, side), np.int16))
    path.write_bytes(change(part10(ds, syntax)))
    return path


def test_garbage_ends_in_a_sentence(tmp_path: Path) -> None:
    path = broken(lambda file: file[:-60] + bytes(60), tmp_path, "j2k")
    with pytest.raises(StudyBlocked, match="cannot be decoded: the decoder failed"):
        decode_in_child([path])


def test_a_codestream_of_another_size_than_the_header_ends_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    small = part10(image(), "j2k")
    rows = b"\x28\x00\x10\x00US\x02\x00"
    path.write_bytes(small.replace(rows + b"\x28\x00", rows + b"\x50\x00"))
    with pytest.raises(StudyBlocked, match="cannot be decoded"):
        decode_in_child([path])


def test_limits_hold(tmp_path: Path) -> None:
    path = broken(bytes, tmp_path)
    with pytest.raises(StudyBlocked, match="takes too long"):
        decode_in_child([path], Limits(wall_s=0.01))
    with pytest.raises(StudyBlocked, match="the decoder failed"):
        decode_in_child([broken(bytes, tmp_path, side=2048)], Limits(memory_bytes=1 << 20))


def test_the_child_sees_no_environment_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "/nonexistent")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")  # would stop any Python that inherits it
    assert len(decode_in_child([broken(bytes, tmp_path)])) == 1


def test_native_files_are_not_sent_to_the_child(tmp_path: Path) -> None:
    path = tmp_path / "native"
    path.write_bytes(part10(image()))
    with pytest.raises(StudyBlocked, match="no decoder for its transfer syntax"):
        decode_in_child([path])


def test_one_object_in_four_transfer_syntaxes_has_one_decoded_digest(tmp_path: Path) -> None:
    digests = set()
    for syntax in ("explicit", "big", "rle", "j2k"):
        path = tmp_path / syntax
        path.write_bytes(part10(phantoms.enhanced(), syntax))
        digests.add(decoded_pixel_digest(path))
    assert len(digests) == 1
    ds = phantoms.enhanced()
    ds.PixelData = b"\7" + ds.PixelData[1:]
    (tmp_path / "other").write_bytes(part10(ds))
    assert decoded_pixel_digest(tmp_path / "other") not in digests

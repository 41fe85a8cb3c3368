"""Volumes: the same voxels at the same places from every kind of series, or a sentence."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from appliance.errors import StudyBlocked, StudyUnsuitable
from appliance.volume import Volume
from dicom_nodes.volume_reader import read_series, read_source, read_volume
from tests import phantoms
from tests.phantoms import Change, Phantom, part10, write_series

COUNTER = itertools.count()


def volume(folder: Path, images: list[Dataset], syntax: str = "explicit") -> Volume:
    return read_volume(sorted(write_series(folder / str(next(COUNTER)), images, syntax)))


def assert_is_the_head(found: Volume, phantom: Phantom) -> None:
    assert np.array_equal(found.voxels, phantoms.head(phantom))
    assert np.allclose(found.affine, phantoms.affine(phantom), atol=1e-5)


@pytest.mark.parametrize("orientation", list(phantoms.ORIENTATIONS))
def test_every_orientation(tmp_path: Path, orientation: str) -> None:
    phantom = Phantom(orientation=orientation)
    found = volume(tmp_path, phantoms.series(phantom))
    assert_is_the_head(found, phantom)
    assert found.voxels.dtype == np.int16
    assert [frame.sop_instance_uid for frame in found.frames] == [phantoms.uid(1, 1, k + 1) for k in range(12)]
    assert (found.modality, found.frame_of_reference_uid) == ("MR", phantoms.uid(1, 99))
    assert not found.frame_of_reference_derived


@pytest.mark.parametrize("syntax", list(phantoms.SYNTAXES))
def test_every_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    assert_is_the_head(volume(tmp_path, phantoms.series(), syntax), Phantom())


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big", "jls"])
def test_enhanced(tmp_path: Path, syntax: str) -> None:
    order = [3, 0, 11, 5, 1, 2, 4, 6, 7, 10, 9, 8]
    found = volume(tmp_path, [phantoms.enhanced(shuffle=order)], syntax)
    assert_is_the_head(found, Phantom())
    assert [frame.frame for frame in found.frames] == [order.index(k) + 1 for k in range(12)]
    assert {frame.sop_class_uid for frame in found.frames} == {phantoms.ENHANCED_MR}


def test_hounsfield_units(tmp_path: Path) -> None:
    found = volume(tmp_path, phantoms.series(Phantom(sop_class=phantoms.CT)))
    assert found.voxels.dtype == np.float32
    assert np.array_equal(found.voxels, phantoms.head(Phantom()) - 1024.0)


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    images = phantoms.series(Phantom(sop_class=phantoms.PET))
    for k, ds in enumerate(images):
        ds.RescaleSlope = str(0.5 + k / 4)
    slopes = np.array([0.5 + k / 4 for k in range(12)], np.float32).reshape(-1, 1, 1)
    assert np.allclose(volume(tmp_path, images).voxels, phantoms.head(Phantom()) * slopes)


def test_each_frame_has_its_own_slope(tmp_path: Path) -> None:
    ds = phantoms.enhanced()
    ds.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence[0].RescaleSlope = "2"
    found = volume(tmp_path, [ds])
    assert np.array_equal(found.voxels[2], phantoms.head(Phantom())[2] * 2.0)
    assert np.array_equal(found.voxels[3], phantoms.head(Phantom())[3])


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.uint8, np.int16), (np.int16, np.int16), (np.uint16, np.int16), (np.uint32, np.float32),
        (np.float32, np.float32),
    ],
)  # fmt: skip
def test_depths(tmp_path: Path, stored: type, expected: type) -> None:
    images = phantoms.series()
    truth = phantoms.head(Phantom()) // 4
    for k, ds in enumerate(images):
        phantoms.set_pixels(ds, truth[k].astype(stored))
    found = volume(tmp_path, images)
    assert found.voxels.dtype == expected
    assert np.array_equal(found.voxels, truth)


def test_large_unsigned_values_do_not_turn_negative(tmp_path: Path) -> None:
    images = phantoms.series()
    for ds in images:
        phantoms.set_pixels(ds, np.full((40, 34), 40000, np.uint16))
    found = volume(tmp_path, images)
    assert found.voxels.dtype == np.float32
    assert found.voxels.min() == 40000


def test_bits_beyond_bits_stored_are_no_part_of_the_value(tmp_path: Path) -> None:
    images = phantoms.series()
    for ds in images:
        phantoms.set_pixels(ds, np.full((40, 34), 0xF123, np.uint16))
        ds.BitsStored, ds.HighBit = 12, 11
    assert set(np.unique(volume(tmp_path, images).voxels)) == {0x123}
    for ds in images:
        ds.PixelRepresentation = 1
        ds.PixelData = np.full((40, 34), 0x0FFF, np.uint16).tobytes()
    assert set(np.unique(volume(tmp_path, images).voxels)) == {-1}


def test_monochrome1_is_turned_round(tmp_path: Path) -> None:
    images = phantoms.series(change=phantoms.monochrome1)
    truth = phantoms.head(Phantom())
    assert np.array_equal(volume(tmp_path, images).voxels, -1 - truth)
    for k, ds in enumerate(images):
        phantoms.set_pixels(ds, (4095 - truth[k]).astype(np.uint16))
        ds.BitsStored, ds.HighBit, ds.PhotometricInterpretation = 12, 11, "MONOCHROME1"
    assert np.array_equal(volume(tmp_path, images).voxels, truth)


def test_hounsfield_units_are_not_turned_round(tmp_path: Path) -> None:
    images = phantoms.series(Phantom(sop_class=phantoms.CT), phantoms.monochrome1)
    assert volume(tmp_path, images).voxels[0, 0, 0] == -1024


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (phantoms.missing_slice, "1 slice is missing"),
        (phantoms.duplicate_position, "12 images at 11 places"),
        (phantoms.mixed_orientation, "turned against the others"),
        (phantoms.mixed_size, "2 sizes"),
        (phantoms.nan_spacing, "pixel spacing is not a positive number"),
    ],
)
def test_what_is_no_grid_is_unsuitable(tmp_path: Path, change: Change, sentence: str) -> None:
    with pytest.raises(StudyUnsuitable, match=sentence):
        volume(tmp_path, phantoms.series(change=change))


@pytest.mark.parametrize(
    ("keyword", "value", "sentence"),
    [("RescaleSlope", "0", "zero"), ("RescaleSlope", None, "no Rescale Slope|zero, missing")],
)
def test_hounsfield_units_are_never_guessed(tmp_path: Path, keyword: str, value: str | None, sentence: str) -> None:
    images = phantoms.series(Phantom(sop_class=phantoms.CT))
    for ds in images:
        setattr(ds, keyword, value)
    with pytest.raises(StudyUnsuitable, match=sentence):
        volume(tmp_path, images)


def test_a_cut_file_blocks_the_study(tmp_path: Path) -> None:
    paths = write_series(tmp_path, phantoms.series())
    paths[3].write_bytes(paths[3].read_bytes()[:-2])
    with pytest.raises(StudyBlocked, match="2718 bytes are there, 2720 are announced"):
        read_volume(paths)


@pytest.mark.parametrize(("keyword", "what"), [("PatientID", "2 patients"), ("StudyInstanceUID", "2 studies")])
def test_two_patients_in_one_series_block_the_study(tmp_path: Path, keyword: str, what: str) -> None:
    images = phantoms.series()
    setattr(images[5], keyword, "1.2.3")
    with pytest.raises(StudyBlocked, match=what) as caught:
        volume(tmp_path, images)
    assert "PH-1" not in str(caught.value)


def test_frames_of_reference_that_differ_give_one_of_the_series(tmp_path: Path) -> None:
    one = volume(tmp_path, phantoms.series(change=phantoms.own_frame_of_reference))
    two = volume(tmp_path, phantoms.series(change=phantoms.own_frame_of_reference)[::-1])
    assert one.frame_of_reference_derived
    assert one.frame_of_reference_uid == two.frame_of_reference_uid
    assert one.frame_of_reference_uid.startswith("2.25.")
    none = volume(tmp_path, phantoms.series(FrameOfReferenceUID=""))
    assert none.frame_of_reference_derived


def test_source_is_in_slice_order_and_keeps_odd_uids(tmp_path: Path) -> None:
    paths = write_series(tmp_path, phantoms.series(change=phantoms.leading_zero_uids)[::-1])
    found, source = read_series(paths)
    assert [uid for _, uid in source.instances] == [f"{phantoms.ROOT}.007.01.0{k}" for k in range(12)]
    assert found.series_instance_uid == source.header["SeriesInstanceUID"].value == f"{phantoms.ROOT}.007.01"
    assert read_source(paths).frames == source.frames == found.frames


@pytest.mark.parametrize("name", list(phantoms.CHARACTER_SETS))
def test_source_text_is_unicode(tmp_path: Path, name: str) -> None:
    images = [phantoms.with_character_set(ds, name) for ds in phantoms.series()]
    header = read_source(write_series(tmp_path, images)).header
    assert str(header.PatientName) == phantoms.CHARACTER_SETS[name][2]
    assert header.SpecificCharacterSet == "ISO_IR 192"


def test_source_values_that_are_none_are_emptied(tmp_path: Path) -> None:
    images = phantoms.series()
    for ds in images:
        ds.add(phantoms.raw_element(0x00080020, "DA", b"20240231"))
        ds.add(phantoms.raw_element(0x00080030, "TM", b"25:00 "))
        ds.add(phantoms.raw_element(0x00101010, "AS", b"56"))
    header = read_source(write_series(tmp_path, images)).header
    assert (header.StudyDate, header.StudyTime, header.PatientAge) == ("", "", "")
    assert (header.SeriesDate, header.StudyDescription) == ("20240229", "Head")
    assert "PixelData" not in header


def test_nothing_is_written_beside_the_images(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(part10(phantoms.enhanced(), "rle"))
    read_volume([path])
    assert [p.name for p in tmp_path.iterdir()] == ["one"]

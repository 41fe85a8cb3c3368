"""Headers: geometry and attributes of odd and even ones, and digests that see content, not encoding."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydicom import Dataset

from appliance.errors import InstanceRefused
from dicom_nodes.digest import content_digest, header_digest, pixel_digest
from dicom_nodes.header import attributes, geometry, read_header
from tests import phantoms
from tests.phantoms import Phantom, part10


def image() -> Dataset:
    return phantoms.series()[3]


def with_sequences(ds: Dataset) -> Dataset:
    """Add public and private sequences, nested, and numbers of many kinds."""
    inner, outer, private = Dataset(), Dataset(), Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "T-A0100", "SRT", "Brain"
    outer.ProcedureCodeSequence, outer.RequestedProcedureID = [inner, inner], "9"
    ds.RequestAttributesSequence = [outer, Dataset()]
    ds.ReferencedImageSequence = []
    ds.AcquisitionMatrix, ds.MagneticFieldStrength = [0, 24, 20, 0], "3"
    ds.ImagedNucleus, ds.SmallestImagePixelValue = "1H", 0
    block = ds.private_block(0x0029, "PHANTOM", create=True)
    private.add_new(0x00291101, "FD", 2.5)
    block.add_new(0x01, "SQ", [private])
    block.add_new(0x02, "US", 513)
    block.add_new(0x03, "LO", "odd")
    return ds


def test_one_object_in_any_encoding_has_one_header_digest() -> None:
    ds = with_sequences(image())
    files = [part10(ds, name) for name in ("implicit", "explicit", "big", "rle", "j2k", "jls")]
    files += [part10(with_sequences(image()), name, undefined_lengths=True) for name in ("implicit", "explicit")]
    digests = {header_digest(read_header(file)) for file in files}
    assert len(set(files)) == len(files)
    assert len(digests) == 1


def test_looking_at_a_header_does_not_change_its_digest() -> None:
    ds = read_header(part10(with_sequences(image())))
    before = header_digest(ds)
    geometry(ds), attributes(ds)
    assert header_digest(ds) == before
    list(ds.iterall())  # every value converted by pydicom
    assert header_digest(ds) == before


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientName", "Phantom^Heads"), ("Rows", 25), ("ImageType", ["ORIGINAL", "PRIMARY"]), ("EchoTime", "2.50")],
)
def test_a_changed_value_changes_the_header_digest(keyword: str, value: object) -> None:
    ds = image()
    before = header_digest(read_header(part10(ds)))
    setattr(ds, keyword, value)
    assert header_digest(read_header(part10(ds))) != before


def test_a_change_deep_in_a_private_sequence_changes_the_header_digest() -> None:
    ds = with_sequences(image())
    before = header_digest(read_header(part10(ds)))
    ds[0x00291001].value[0][0x00291101].value = 2.25
    assert header_digest(read_header(part10(ds))) != before


def test_padding_and_trailing_padding_do_not_change_the_header_digest() -> None:
    ds = image()
    before = header_digest(read_header(part10(ds)))
    ds.add_new(0xFFFCFFFC, "OB", b"\0\0")
    ds.PatientID = "PH-1  "
    assert header_digest(read_header(part10(ds))) == before


def test_native_pixels_have_one_digest_in_either_endian_and_any_padding(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("implicit", "explicit", "big")]
    for path in paths:
        path.write_bytes(part10(image(), path.name))
    assert len({content_digest(path) for path in paths}) == 1
    ds = image()
    ds.PixelData = ds.PixelData + b"\0\0"
    (tmp_path / "longer").write_bytes(part10(ds))
    assert content_digest(tmp_path / "longer") == content_digest(paths[0])
    ds.PixelData = b"\1" + ds.PixelData[1:]
    (tmp_path / "other").write_bytes(part10(ds))
    assert content_digest(tmp_path / "other").pixels != content_digest(paths[0]).pixels
    assert content_digest(tmp_path / "other").header == content_digest(paths[0]).header


def test_compressed_pixels_are_digested_frame_by_frame(tmp_path: Path) -> None:
    (tmp_path / "rle").write_bytes(part10(phantoms.enhanced(), "rle"))
    (tmp_path / "jls").write_bytes(part10(phantoms.enhanced(), "jls"))
    one, two = content_digest(tmp_path / "rle"), content_digest(tmp_path / "jls")
    assert one.header == two.header
    assert one.pixels != two.pixels
    assert pixel_digest(Dataset()) != one.pixels


def test_header_digest_is_cheap() -> None:
    file = part10(with_sequences(image()))
    headers = [read_header(file) for _ in range(100)]
    begun = time.process_time()
    for ds in headers:
        header_digest(ds)
    assert (time.process_time() - begun) / 100 < 0.003  # twice the aim, for a busy machine


@pytest.mark.parametrize("orientation", list(phantoms.ORIENTATIONS))
def test_classic_geometry(orientation: str) -> None:
    phantom = Phantom(orientation=orientation)
    ds = read_header(part10(phantoms.series(phantom)[2], "implicit"))
    (plane,) = geometry(ds)
    assert plane.problem == ""
    assert (plane.rows, plane.columns, plane.frames, plane.frame) == (40, 34, 1, None)
    assert plane.pixel_spacing == (1.5, 1.25)
    assert plane.orientation == phantoms.ORIENTATIONS[orientation]
    assert plane.position == pytest.approx((phantoms.affine(phantom) @ (2, 0, 0, 1))[:3])
    assert plane.sop_instance_uid == phantoms.uid(1, 1, 3)


def test_enhanced_geometry_is_one_plane_a_frame() -> None:
    planes = geometry(read_header(part10(phantoms.enhanced(shuffle=[2, 0, 1]))))
    assert [plane.frame for plane in planes] == [1, 2, 3]
    assert [plane.position[2] for plane in planes if plane.position] == [-34.0, -40.0, -37.0]
    assert {plane.temporal_position for plane in planes} == {"1"}
    assert {plane.pixel_spacing for plane in planes} == {(1.5, 1.25)}


def test_temporal_position_of_classic_images() -> None:
    ds = image()
    ds.TriggerTime = "12.5"
    assert (geometry(ds)[0].temporal_position, geometry(ds)[0].trigger_ms) == ("12.5", 12.5)
    del ds.TriggerTime
    ds.TemporalPositionIdentifier = "3"
    assert (geometry(ds)[0].temporal_position, geometry(ds)[0].trigger_ms) == ("3", None)


def test_the_trigger_delay_of_enhanced_frames_is_a_time_and_their_index_is_none() -> None:
    ds = phantoms.enhanced()
    assert {plane.trigger_ms for plane in geometry(read_header(part10(ds)))} == {None}
    for n, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        delay = Dataset()
        delay.NominalCardiacTriggerDelayTime = 40.5 * n
        item.CardiacSynchronizationSequence = [delay]
    planes = geometry(read_header(part10(ds)))
    assert [plane.trigger_ms for plane in planes] == [40.5 * n for n in range(len(planes))]
    assert {plane.temporal_position for plane in planes} == {"1"}
    for item in ds.PerFrameFunctionalGroupsSequence:
        del item.FrameContentSequence
    assert [float(plane.temporal_position) for plane in geometry(read_header(part10(ds)))] == [
        40.5 * n for n in range(len(planes))
    ]


@pytest.mark.parametrize(
    ("tag", "vr", "value", "problem"),
    [
        (0x00280030, "DS", b"abc\\1 ", "Pixel Spacing is not 2 numbers"),
        (0x00280030, "DS", b"1 ", "Pixel Spacing is not 2 numbers"),
        (0x00200032, "DS", b"1\\2 ", "Position .* is not 3 numbers"),
        (0x00200037, "DS", b"1\\0\\0\\0\\1 ", "Orientation .* is not 6 numbers"),
        (0x00280008, "IS", b"4 ", "does not place its frames"),
    ],
)
def test_an_odd_header_gives_a_problem_not_an_error(tag: int, vr: str, value: bytes, problem: str) -> None:
    ds = image()
    ds.add(phantoms.raw_element(tag, vr, value))
    (plane,) = geometry(read_header(part10(ds)))
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(plane.problem)


@pytest.mark.parametrize(("value", "expected"), [(b"nan\\nan ", "nan"), (b"-1\\1e400", "-1.0")])
def test_numbers_that_are_none_are_left_to_geometry(value: bytes, expected: str) -> None:
    ds = image()
    ds.add(phantoms.raw_element(0x00280030, "DS", phantoms.padded(value)))
    (plane,) = geometry(read_header(part10(ds)))
    assert plane.pixel_spacing is not None
    assert str(plane.pixel_spacing[0]) == expected


@pytest.mark.parametrize("name", list(phantoms.CHARACTER_SETS))
def test_attributes_are_unicode(name: str) -> None:
    ds = read_header(part10(phantoms.with_character_set(image(), name)))
    assert attributes(ds)["PatientName"] == phantoms.CHARACTER_SETS[name][2]


def test_attributes_are_short_and_public() -> None:
    ds = with_sequences(image())
    ds.add(phantoms.raw_element(0x0008103E, "LO", b"x" * 100))
    ds.ImageComments = "free text"
    found = attributes(read_header(part10(ds, "implicit")))
    assert found["Modality"] == "MR"
    assert found["ImageType"] == ["ORIGINAL", "PRIMARY", "M"]
    assert found["Rows"] == "40"
    assert found["AcquisitionMatrix"] == ["0", "24", "20", "0"]
    assert found["SeriesDescription"] == "x" * 64
    assert not {"PixelData", "ImageComments", "RequestAttributesSequence", ""} & set(found)


def test_attributes_of_an_enhanced_image_include_its_shared_groups() -> None:
    found = attributes(read_header(part10(phantoms.enhanced())))
    assert found["SliceThickness"] == "3.0"
    assert found["Modality"] == "MR"


@pytest.mark.parametrize("cut", [0, 100, 140, 700])
def test_a_cut_or_foreign_file_is_refused_without_quoting_it(cut: int) -> None:
    with pytest.raises(InstanceRefused) as caught:
        read_header(part10(image())[:cut] if cut else b"MZ, no DICOM at all")
    assert caught.value.status == InstanceRefused.UNREADABLE
    assert "Phantom" not in str(caught.value)


def test_a_deflated_file_is_refused() -> None:
    file = part10(image()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"[:20], 1)
    ds = file.replace(b"1.2.840.10008.1.2.1.", b"1.2.840.10008.1.2.1.99", 1)
    with pytest.raises(InstanceRefused, match="Deflated"):
        read_header(ds)

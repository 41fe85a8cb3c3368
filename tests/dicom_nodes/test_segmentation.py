"""Segmentations: the label map comes back voxel for voxel, by whoever reads it, and says whose it is."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from mmap import mmap
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from appliance.errors import ResultRejected
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_files import is_own_result
from dicom_nodes.segmentation import segment_references, write_segmentation
from dicom_nodes.spool import write_durably
from dicom_nodes.validation import Expected, Held, check
from dicom_nodes.values import text
from tests import phantoms
from tests.made_up import context, findings, label_map_of, read_phantom
from tests.phantoms import Phantom


def parsed(file: bytes) -> Dataset:
    with lenient():
        return dcmread(io.BytesIO(file))


def written(folder: Path, phantom: Phantom | None = None, images: list[Dataset] | None = None) -> Dataset:
    labels, volume, source = read_phantom(folder, phantom, images)
    return parsed(write_segmentation(labels, volume, findings(context()), source, context()))


@pytest.mark.parametrize("orientation", list(phantoms.ORIENTATIONS))
@pytest.mark.parametrize(("rows", "columns"), [(40, 34), (33, 35)])  # 33 × 35 bits end within a byte
def test_label_map_comes_back(tmp_path: Path, orientation: str, rows: int, columns: int) -> None:
    phantom = Phantom(orientation=orientation, rows=rows, columns=columns)
    labels, volume, source = read_phantom(tmp_path, phantom)
    file = write_segmentation(labels, volume, findings(context()), source, context())
    assert np.array_equal(label_map_of(parsed(file), volume), labels)


def test_highdicom_reads_the_same_volume(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path, Phantom(orientation="oblique"))
    file = write_segmentation(labels, volume, findings(context()), source, context())
    found = hd.seg.segread(io.BytesIO(file)).get_volume(combine_segments=True)
    at = np.argwhere(found.array)
    index = np.c_[at, np.ones(len(at))] @ (np.linalg.inv(volume.affine) @ found.affine).T
    back = np.zeros_like(labels)
    back[tuple(np.rint(index[:, :3]).astype(int).T)] = found.array[tuple(at.T)]
    assert np.abs(index - np.rint(index)).max() < 1e-4
    assert np.array_equal(back, labels)


def test_frames_are_those_that_highdicom_writes(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    ours = parsed(write_segmentation(labels, volume, findings(context()), source, context()))
    descriptions = [item for item in hd.seg.Segmentation.from_dataset(ours).SegmentSequence]
    images = phantoms.series()
    plain = hd.seg.Segmentation(
        images, labels, "BINARY", descriptions, "1.2.3", 1, "1.2.4", 1, "m", "n", "1", "1",
        plane_positions=[
            hd.PlanePositionSequence("PATIENT", plane.position) for plane in source.planes if plane.position
        ],
    )  # fmt: skip
    theirs = parsed(saved(plain))
    assert frames_by_place(ours) == frames_by_place(theirs)
    assert ours.NumberOfFrames == theirs.NumberOfFrames
    assert ours.SharedFunctionalGroupsSequence == theirs.SharedFunctionalGroupsSequence


def saved(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def frames_by_place(ds: Dataset) -> dict[tuple[int, str], tuple[str, bytes]]:
    """Return (segment, position) → (functional groups as text but the order of slices, bits)."""
    found = {}
    for mask, item in zip(ds.pixel_array, ds.PerFrameFunctionalGroupsSequence, strict=True):
        segment = int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        item.FrameContentSequence[0].DimensionIndexValues = [segment, 0]
        place = str(item.PlanePositionSequence[0].ImagePositionPatient)
        found[segment, place] = (item.to_json(), mask.tobytes())
    return found


def test_one_context_one_sequence_of_bytes(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    one = write_segmentation(labels, volume, findings(context()), source, context())
    two = write_segmentation(labels, volume, findings(context()), source, context())
    other = write_segmentation(labels, volume, findings(context()), source, context(package_version="1.0.1"))
    assert one == two
    assert one != other


def test_patient_and_study_are_the_images(tmp_path: Path) -> None:
    ds = written(tmp_path)
    image = phantoms.series()[0]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID",
                    "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription", "BodyPartExamined",
                    "ReferringPhysicianName", "FrameOfReferenceUID", "InstitutionName"):  # fmt: skip
        assert ds[keyword].value == image[keyword].value, keyword


def test_who_made_it(tmp_path: Path) -> None:
    ds, made = written(tmp_path), context()
    assert (ds.Manufacturer, ds.ManufacturerModelName) == ("Petite Curie", "brain-structures")
    assert list(ds.SoftwareVersions) == ["0.1.0", "brain-structures 1.0.0"]
    assert (ds.DeviceSerialNumber, ds.SeriesNumber, ds.Modality) == (made.appliance_uid, 901, "SEG")
    assert ds.SeriesDescription == "Brain structures: segmentation (not for clinical use)"
    assert (ds.SOPInstanceUID, ds.SeriesInstanceUID) == (made.uid("seg"), made.uid("seg-series"))
    assert (ds.ContentDate, ds.ContentTime) == ("20240301", "123005")
    scanner, algorithm = ds.ContributingEquipmentSequence
    assert scanner.Manufacturer == "Phantom Works"
    assert algorithm.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert made.package_digest in algorithm.ContributionDescription
    assert ds.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.0.0"


def test_times_are_in_the_zone_of_the_images(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path, images=phantoms.series(TimezoneOffsetFromUTC="-0530"))
    made = context(made_at=datetime(2024, 3, 1, 2, 0, tzinfo=UTC))
    ds = parsed(write_segmentation(labels, volume, findings(made), source, made))
    assert (ds.ContentDate, ds.ContentTime, ds.TimezoneOffsetFromUTC) == ("20240229", "203000", "-0530")
    assert ds.ContributingEquipmentSequence[1].ContributionDateTime == "20240229203000"


def test_segments_say_what_they_are(tmp_path: Path) -> None:
    ds, made = written(tmp_path), context()
    assert [item.SegmentNumber for item in ds.SegmentSequence] == [1, 2, 3]
    assert [item.SegmentLabel for item in ds.SegmentSequence] == ["Brain", "Right ventricle", "Left ventricle"]
    assert [item.TrackingUID for item in ds.SegmentSequence] == [made.uid("tracking", n) for n in (1, 2, 3)]
    assert ds.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue == "66720007"
    assert all(len(item.RecommendedDisplayCIELabValue) == 3 for item in ds.SegmentSequence)


def test_every_image_is_referred_to(tmp_path: Path) -> None:
    ds = written(tmp_path)
    (series,) = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == phantoms.uid(1, 1)
    uids = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
    assert uids == [phantoms.uid(1, 1, k + 1) for k in range(12)]


def test_frames_of_an_enhanced_image_are_referred_to_by_number(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path, images=[phantoms.enhanced(shuffle=[*range(6, 12), *range(6)])])
    ds = parsed(write_segmentation(labels, volume, findings(context()), source, context()))
    assert np.array_equal(label_map_of(ds, volume), labels)
    for item in ds.PerFrameFunctionalGroupsSequence:
        image = item.DerivationImageSequence[0].SourceImageSequence[0]
        k = round((float(item.PlanePositionSequence[0].ImagePositionPatient[2]) + 40) / 3)
        assert image.ReferencedFrameNumber == (k + 6) % 12 + 1
        assert image.ReferencedSOPClassUID == phantoms.ENHANCED_MR


def test_odd_uids_stay_letter_for_letter(tmp_path: Path) -> None:
    ds = written(tmp_path, images=phantoms.series(change=phantoms.leading_zero_uids))
    assert text(ds, 0x0020000D) == f"{phantoms.ROOT}.007"
    assert text(ds, 0x00200052) == f"{phantoms.ROOT}.007.099"
    image = ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert text(image, 0x00081155).startswith(f"{phantoms.ROOT}.007.01.0")


def test_a_derived_frame_of_reference_is_written(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path, images=phantoms.series(change=phantoms.own_frame_of_reference))
    ds = parsed(write_segmentation(labels, volume, findings(context()), source, context()))
    assert ds.FrameOfReferenceUID == volume.frame_of_reference_uid
    assert volume.frame_of_reference_derived


@pytest.mark.parametrize("name", list(phantoms.CHARACTER_SETS))
def test_names_are_written_in_unicode(tmp_path: Path, name: str) -> None:
    ds = written(tmp_path, images=[phantoms.with_character_set(ds, name) for ds in phantoms.series()])
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert str(ds.PatientName) == phantoms.CHARACTER_SETS[name][2]


def test_segment_numbers_have_no_gaps(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    apart = np.where(labels == 3, 9, labels * (labels != 2)).astype(np.uint8)
    found = findings(context())
    ordered = [replace(found[2], segment_number=9), found[1], found[0]]
    ds = parsed(write_segmentation(apart, volume, ordered, source, context()))
    assert [item.SegmentLabel for item in ds.SegmentSequence] == ["Brain", "Left ventricle"]
    assert np.array_equal(label_map_of(ds, volume), np.where(apart == 9, 2, apart))


def test_what_is_wrong_in_itself_is_not_written(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    found = findings(context())
    with pytest.raises(ResultRejected, match="the volume"):
        write_segmentation(labels[:-1], volume, found, source, context())
    with pytest.raises(ResultRejected, match="belong to no finding"):
        write_segmentation(labels, volume, found[:2], source, context())
    with pytest.raises(ResultRejected, match="empty"):
        write_segmentation(labels * 0, volume, found, source, context())
    with pytest.raises(ResultRejected, match="one segment number"):
        write_segmentation(labels, volume, [*found, found[0]], source, context())


def test_a_curie_knows_results_of_any_curie(tmp_path: Path) -> None:
    ds = written(tmp_path)
    assert is_own_result(ds)
    del ds.DeviceUID
    assert is_own_result(ds)
    ds.Manufacturer = "Another"  # who worked on with our result names us among the contributors
    assert not is_own_result(ds)
    ds.Manufacturer = "Petite Curie"
    del ds.ContributingEquipmentSequence
    assert not is_own_result(ds)
    assert not is_own_result(phantoms.series()[0])


def test_a_long_title_leaves_the_warning_whole(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    ds = parsed(write_segmentation(labels, volume, findings(context()), source, context(title="x" * 90)))
    assert len(ds.SeriesDescription) == 64
    assert ds.SeriesDescription.endswith("segmentation (not for clinical use)")


def test_a_title_that_warns_is_not_cut_to_warn_twice(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    made = context(title="AI brain structures, not clinical")
    ds = parsed(write_segmentation(labels, volume, findings(made), source, made))
    assert ds.SeriesDescription == "AI brain structures, not clinical: segmentation"


def test_a_large_file_lies_on_disk_and_holds_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, volume, source = read_phantom(tmp_path)
    made = context()
    small = write_segmentation(labels, volume, findings(made), source, made)
    monkeypatch.setattr("dicom_nodes.origin.LARGE", 1000)
    large = write_segmentation(labels, volume, findings(made), source, made)
    assert isinstance(small, bytes)
    assert isinstance(large, mmap)
    assert bytes(large) == small
    write_durably(tmp_path / "kept.dcm", large)
    assert (tmp_path / "kept.dcm").read_bytes() == small
    held = Held(labels, volume, {1: 1, 2: 2, 3: 3}, source)
    at = segment_references(findings(made), made)[1].object
    images = frozenset(uid for _, uid in source.instances)
    check([(at, large)], Expected([], source, made, images, {at.sop_instance_uid: held}))
    other = replace(held, label_map=np.roll(labels, 1, axis=2))
    with pytest.raises(ResultRejected, match="voxels"):
        check([(at, large)], Expected([], source, made, images, {at.sop_instance_uid: other}))

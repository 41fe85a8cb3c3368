"""Reports: every number, code and reference comes back, twice for each finding, under one tracking UID."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from highdicom import sr
from pydicom import Dataset, dcmread

from appliance.job import ObjectReference, Prior
from dicom_nodes.contours import area
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.report import write_failure, write_report
from dicom_nodes.result_classes import COMPREHENSIVE_3D_SR
from dicom_nodes.result_files import is_own_result
from dicom_nodes.segmentation import segment_references
from dicom_nodes.values import text
from tests import phantoms
from tests.made_up import context, findings, read_phantom
from tests.phantoms import Phantom


def written(folder: Path, images: list[Dataset] | None = None, **changed: object) -> bytes:
    labels, volume, source = read_phantom(folder, images=images)
    made = context(**changed)
    held = segment_references(findings(made), made)
    return write_report(findings(made), labels, volume, source, made, held)


def parsed(file: bytes) -> Dataset:
    with lenient():
        return dcmread(io.BytesIO(file))


def opened(file: bytes) -> sr.MeasurementReport:
    content = sr.srread(io.BytesIO(file)).content
    assert isinstance(content, sr.MeasurementReport)
    return content


def comments(file: bytes) -> list[str]:
    return [item.TextValue for item in parsed(file).ContentSequence if item.ValueType == "TEXT" and comment(item)]


def comment(item: Dataset) -> bool:
    return bool(item.ConceptNameCodeSequence[0].CodeValue == "121106")


def test_each_finding_is_a_segment_with_its_measurements(tmp_path: Path) -> None:
    groups = opened(written(tmp_path)).get_volumetric_roi_measurement_groups()
    made = context()
    assert len(groups) == 3
    for finding, group in zip(findings(made), groups, strict=True):
        assert group.tracking_uid == finding.tracking_uid
        assert group.finding_type.value == finding.code.value
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == made.uid("seg")
        assert segment.referenced_segment_numbers == [finding.segment_number]
        (measured,) = group.get_measurements()
        assert (measured.value, measured.unit.value) == (finding.measurements[0].value, "ml")
        assert measured.name.value == "118565006"


def test_each_finding_is_outlined_where_it_is_largest(tmp_path: Path) -> None:
    labels = phantoms.label_map(Phantom())
    groups = opened(written(tmp_path)).get_planar_roi_measurement_groups()
    for finding, group in zip(findings(context()), groups, strict=True):
        counts = (labels == finding.segment_number).sum(axis=(1, 2))
        ring = group.roi.value
        image = group.roi.ContentSequence[0].ReferencedSOPSequence[0]
        assert group.tracking_uid == finding.tracking_uid
        assert image.ReferencedSOPInstanceUID == phantoms.uid(1, 1, int(counts.argmax()) + 1)
        assert area(ring) >= 0.75 * counts.max()
        (measured,) = group.get_measurements()
        assert (measured.value, measured.unit.value) == (pytest.approx(counts.max() * 1.5 * 1.25), "mm2")


def test_an_outline_lies_on_its_segment(tmp_path: Path) -> None:
    labels = phantoms.label_map(Phantom())
    ring = opened(written(tmp_path)).get_planar_roi_measurement_groups()[1].roi.value
    k = int((labels == 2).sum(axis=(1, 2)).argmax())
    rows, columns = np.nonzero(labels[k] == 2)
    assert ring.min(axis=0) == pytest.approx([columns.min(), rows.min()])
    assert ring.max(axis=0) == pytest.approx([columns.max() + 1, rows.max() + 1])


def test_evidence_is_every_image_and_the_segmentation(tmp_path: Path) -> None:
    (study,) = parsed(written(tmp_path)).CurrentRequestedProcedureEvidenceSequence
    images, results = study.ReferencedSeriesSequence
    uids = [item.ReferencedSOPInstanceUID for item in images.ReferencedSOPSequence]
    assert uids == [phantoms.uid(1, 1, k + 1) for k in range(12)]
    assert [item.ReferencedSOPInstanceUID for item in results.ReferencedSOPSequence] == [context().uid("seg")]
    assert (study.StudyInstanceUID, images.SeriesInstanceUID) == (phantoms.uid(1), phantoms.uid(1, 1))


def test_every_reference_in_the_content_is_evidence(tmp_path: Path) -> None:
    ds = parsed(written(tmp_path))
    listed = {
        item.ReferencedSOPInstanceUID
        for series in ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    content = Dataset()
    content.ContentSequence = ds.ContentSequence
    used = {element.value for element in content.iterall() if element.keyword == "ReferencedSOPInstanceUID"}
    assert context().uid("seg") in used
    assert used <= listed


def test_who_made_it_and_that_nobody_checked_it(tmp_path: Path) -> None:
    file, made = written(tmp_path), context()
    ds = parsed(file)
    assert (ds.PreliminaryFlag, ds.VerificationFlag, ds.CompletionFlag) == ("PRELIMINARY", "UNVERIFIED", "COMPLETE")
    assert ds.SeriesDescription == "Brain structures: report (not for clinical use)"
    assert (ds.SOPInstanceUID, ds.SeriesInstanceUID) == (made.uid("sr"), made.uid("sr-series"))
    assert (ds.PatientName, ds.StudyInstanceUID) == ("Phantom^Head", phantoms.uid(1))
    assert is_own_result(ds)
    (observer,) = opened(file).get_observer_contexts()
    device = observer.observer_identifying_attributes
    assert (device.uid, device.name, device.manufacturer_name) == (made.appliance_uid, "st-elsewhere", "Petite Curie")
    assert device.serial_number == made.appliance_uid
    assert comments(file)[0].startswith("Not for clinical use.")


def test_the_algorithm_is_named_with_version_and_digest(tmp_path: Path) -> None:
    file = written(tmp_path)
    for group in [
        *opened(file).get_volumetric_roi_measurement_groups(),
        *opened(file).get_planar_roi_measurement_groups(),
    ]:
        said = {item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"}
        assert {"brain-structures", "1.0.0", "digest=" + "ab" * 32, "engine=openvino f32"} <= said


def test_one_context_one_sequence_of_bytes(tmp_path: Path) -> None:
    assert written(tmp_path / "a") == written(tmp_path / "b")
    assert written(tmp_path / "a") != written(tmp_path / "b", package_version="1.0.1")


def test_what_it_supersedes_and_a_derived_frame_of_reference_are_said(tmp_path: Path) -> None:
    images = phantoms.series(change=phantoms.own_frame_of_reference)
    said = comments(
        written(tmp_path, images, supersedes=(earlier("2.25.1"), earlier("2.25.2")), not_for_clinical_use=False)
    )
    assert said[0].startswith("Made by software")
    assert "no common Frame of Reference" in said[1]
    assert said[2] == "Computed by openvino f32."
    assert said[3] == "Supersedes: 2.25.1, 2.25.2."


def test_what_was_not_found_is_coded_as_absent(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    labels[labels == 2] = 0
    file = write_report(
        findings(context()), labels, volume, source, context(), segment_references(findings(context()), context())
    )
    assert len(opened(file).get_volumetric_roi_measurement_groups()) == 2
    assert absent(file) == ["66720007"]


def summary(file: bytes) -> str:
    """Return the code that says whether something was found (CID 6047)."""
    (container,) = (
        one for one in parsed(file).ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "C0034375"
    )
    first = container.ContentSequence[0]
    assert first.ConceptNameCodeSequence[0].CodeValue == "111017"
    return str(first.ConceptCodeSequence[0].CodeValue)


def test_found_not_found_and_not_computed_are_codes(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    assert summary(written(tmp_path)) == "111242"
    assert summary(write_report(findings(context()), labels * 0, volume, source, context())) == "111241"
    read = [(volume.series_instance_uid, source.instances)]
    file = write_failure("the slices are not parallel.", source, read, context())
    assert summary(file) == "111245"
    assert comments(file)[1] == "No result: the slices are not parallel."
    (study,) = parsed(file).CurrentRequestedProcedureEvidenceSequence
    assert len(study.ReferencedSeriesSequence[0].ReferencedSOPSequence) == 12
    assert file == write_failure("the slices are not parallel.", source, read, context())


def test_predecessors_are_named_where_software_looks_for_them(tmp_path: Path) -> None:
    other = ObjectReference("1.2.840.10008.5.1.4.1.1.66.4", "2.25.3", "2.25.4", "2.25.99")
    ds = parsed(written(tmp_path, supersedes=(earlier("2.25.1"), other)))
    (study,) = ds.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("2.25.99", "2.25.1.1")
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence] == ["2.25.1"]


def test_growth_since_an_earlier_study_is_measured_and_said(tmp_path: Path) -> None:
    tracked = findings(context())[0]  # 13.25 ml
    prior = Prior(tracked.tracking_uid, "20230101", (("118565006", "ml", 10.0),), earlier("2.25.7"))
    labels, volume, source = read_phantom(tmp_path)
    source.header.StudyDate = "20240101"
    made = context(priors=(prior,))
    file = write_report([tracked], np.where(labels == 1, labels, 0), volume, source, made)
    (group,) = opened(file).get_planar_roi_measurement_groups()
    values = {one.name.value: (one.value, one.unit.value) for one in group.get_measurements()}
    assert values["PC0001"] == (pytest.approx(32.5), "%")
    assert values["PC0002"] == (pytest.approx(365 * math.log(2) / math.log(1.325)), "d")
    assert "Brain: 13.25 ml, 10.00 ml on 2023-01-01 (+32.5 %, doubling time 899 days)." in comments(file)
    ds = parsed(file)
    assert ds.PertinentOtherEvidenceSequence[0].ReferencedSeriesSequence[0].SeriesInstanceUID == "2.25.7.1"
    assert ds.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99PCURIE"
    assert made.uid("sr") != context().uid("sr")


def test_nothing_found_is_said_without_a_segmentation(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    file = write_report(findings(context()), labels * 0, volume, source, context())
    assert absent(file) == ["12738006", "66720007", "66720007"]
    assert "Nothing was found." in comments(file)
    assert len(parsed(file).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence) == 1


def earlier(uid: str) -> ObjectReference:
    """Return the reference to a report that is replaced."""
    return ObjectReference(COMPREHENSIVE_3D_SR, uid, f"{uid}.1", "2.25.99")


def absent(file: bytes) -> list[str]:
    """Return the codes that are said to be absent."""
    found = []
    for container in parsed(file).ContentSequence:
        if container.ConceptNameCodeSequence[0].CodeValue == "C0034375":
            for item in container.ContentSequence[1:]:
                assert item.ConceptCodeSequence[0].CodeValue == "2667000"
                found.append(item.ConceptNameCodeSequence[0].CodeValue)
    return found


def test_without_a_segmentation_the_outline_carries_the_numbers(tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    content = opened(write_report(findings(context()), labels, volume, source, context()))
    assert content.get_volumetric_roi_measurement_groups() == []
    units = [one.unit.value for one in content.get_planar_roi_measurement_groups()[0].get_measurements()]
    assert units == ["ml", "mm2"]


def test_frames_of_an_enhanced_image(tmp_path: Path) -> None:
    file = written(tmp_path, [phantoms.enhanced()])
    image = opened(file).get_planar_roi_measurement_groups()[0].roi.ContentSequence[0].ReferencedSOPSequence[0]
    k = int((phantoms.label_map(Phantom()) == 1).sum(axis=(1, 2)).argmax())
    assert image.ReferencedFrameNumber == k + 1


@pytest.mark.parametrize("name", list(phantoms.CHARACTER_SETS))
def test_names_are_written_in_unicode(tmp_path: Path, name: str) -> None:
    ds = parsed(written(tmp_path, [phantoms.with_character_set(ds, name) for ds in phantoms.series()]))
    assert (ds.SpecificCharacterSet, str(ds.PatientName)) == ("ISO_IR 192", phantoms.CHARACTER_SETS[name][2])


def test_odd_uids_stay_letter_for_letter(tmp_path: Path) -> None:
    ds = parsed(written(tmp_path, phantoms.series(change=phantoms.leading_zero_uids)))
    assert text(ds, 0x0020000D) == f"{phantoms.ROOT}.007"
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    assert text(study, 0x0020000D) == f"{phantoms.ROOT}.007"

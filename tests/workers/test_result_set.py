"""Every kind of output becomes objects that say it: classes present or absent, candidates, a heart over its beat."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom import sr
from pydicom import Dataset, dcmread

from appliance.errors import ResultRejected
from appliance.finding import Code, Finding
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.volume_reader import read_sequence
from models.measure import measure
from models.outputs import CineSegmentation, Classification, Outputs
from models.package import Package, load_package
from models.reading import Reading
from models.registry import ZOO
from tests import phantoms
from tests.made_up import context, findings, read_phantom
from workers.pipeline import tracked
from workers.result_set import ALWAYS, MadeObject, Moment, validate, written

CODE = {"value": "1386000", "meaning": "Intracranial hemorrhage"}


@pytest.fixture(scope="module")
def package() -> Package:
    return load_package(ZOO / "brain-structures")


def with_outputs(package: Package, outputs: Outputs) -> Package:
    return Package(package.folder, package.manifest.model_copy(update={"outputs": outputs}), "")


def made_of(reading: Reading, moments: Sequence[Moment], package: Package) -> tuple[list[MadeObject], list[Finding]]:
    """Return the result set of a reading, and its findings."""
    found = tracked(measure(reading, [one.volumes[0] for one in moments], package), context())
    return list(written(reading, moments, found, package.manifest, context())), list(found)


def parsed(one: MadeObject) -> Dataset:
    with lenient():
        return dcmread(io.BytesIO(one.content))


def report(one: MadeObject) -> sr.MeasurementReport:
    content = sr.srread(io.BytesIO(one.content)).content
    assert isinstance(content, sr.MeasurementReport)
    return content


def comments(one: MadeObject) -> str:
    return " ".join(item.TextValue for item in parsed(one).ContentSequence if item.ValueType == "TEXT")


def faults(objects: Sequence[MadeObject], folder: Path) -> list[str]:
    """Return dciodvfy's errors on all objects; none where the tool is not installed."""
    if shutil.which("dciodvfy") is None:
        return []
    lines = []
    for one in objects:
        path = folder / f"{one.name}.dcm"
        path.write_bytes(one.content)
        ran = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
        lines += [f"{one.name}: {line}" for line in (ran.stdout + ran.stderr).splitlines() if line.startswith("Error")]
    return lines


def bleed(threshold: float) -> Classification:
    classes = [{"name": "none", "code": {"value": "260385009", "meaning": "Negative"}}, {"name": "bleed", "code": CODE}]
    return Classification.model_validate(
        {"kind": "classification", "classes": classes, "positive": 1, "threshold": threshold}
    )


@pytest.mark.parametrize(("probability", "said"), [(0.93, "Present"), (0.2, "Absent")])
def test_a_classifier_says_present_or_absent_with_its_probability_and_operating_point(
    package: Package, tmp_path: Path, probability: float, said: str
) -> None:
    _, volume, source = read_phantom(tmp_path)
    triage = with_outputs(package, bleed(0.5))
    objects, found = made_of(
        Reading(probabilities=(1 - probability, probability)), [Moment((volume,), (source,))], triage
    )
    assert [one.role for one in objects] == ["SR"]
    (group,) = report(objects[0]).get_image_measurement_groups()
    assert group.finding_type.value == "1386000"
    evaluations = {one.name.value: one.value.meaning for one in group.get_qualitative_evaluations()}
    assert evaluations["1386000"] == said
    (measured,) = group.get_measurements()
    assert (measured.name.value, measured.unit.value) == ("111012", "%")
    assert measured.value == pytest.approx(100 * probability)
    assert group.tracking_uid == found[0].tracking_uid
    assert "from a probability of 50 % on" in comments(objects[0])
    assert ("Nothing was found" in comments(objects[0])) == (said == "Absent")
    assert faults(objects, tmp_path) == []


def test_a_candidate_has_its_score_in_its_group_and_a_segment_of_its_own(package: Package, tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    made = context()
    scored = [replace(one, probability=0.8, operating_point=0.6) for one in findings(made)]
    objects = written(Reading((labels,)), [Moment((volume,), (source,))], scored, package.manifest, made)
    groups = report(objects[0]).get_volumetric_roi_measurement_groups()
    assert len(groups) == 3
    for group in groups:
        values = {one.name.value: one.value for one in group.get_measurements()}
        assert values["111012"] == pytest.approx(80.0)
    assert len(parsed(objects[1]).SegmentSequence) == 3
    assert faults(objects, tmp_path) == []


def test_a_probability_map_is_made_where_it_is_wanted_and_the_report_refers_to_it(
    package: Package, tmp_path: Path
) -> None:
    labels, volume, source = read_phantom(tmp_path)
    made, moments = context(), [Moment((volume,), (source,))]
    report_of = package.manifest.report.model_copy(update={"probability_map": 2})
    declared = package.manifest.model_copy(update={"report": report_of})
    probability = np.where(labels == 2, np.uint8(200), np.uint8(3))
    reading = Reading((labels,), probability=probability)
    assert "PMAP" not in {one.role for one in written(reading, moments, findings(made), declared, made)}
    objects = written(reading, moments, findings(made), declared, made, ALWAYS | {"PMAP"})
    (one,) = [one for one in objects if one.role == "PMAP"]
    assert one.at.sop_instance_uid in repr(parsed(objects[0]))
    name = next(two.name for two in package.manifest.outputs.segments if two.number == 2)  # type: ignore[union-attr]
    assert f"Probability of {name}" in repr(parsed(one))
    validate(objects, moments, findings(made), made)
    other = replace(one, holds=replace(one.holds, label_map=np.where(labels == 2, np.uint8(201), np.uint8(3))))  # type: ignore[type-var]
    with pytest.raises(ResultRejected, match="not those"):
        validate([other if two is one else two for two in objects], moments, findings(made), made)


def test_a_side_is_told_with_the_place(package: Package, tmp_path: Path) -> None:
    labels, volume, source = read_phantom(tmp_path)
    made = context()
    left = Code("7771000", "SCT", "Left")
    sided = [replace(one, laterality=left) for one in findings(made)]
    objects = written(Reading((labels,)), [Moment((volume,), (source,))], sided, package.manifest, made)
    for group in report(objects[0]).get_volumetric_roi_measurement_groups():
        (site,) = group.finding_sites
        assert site.laterality.value == "7771000"
    for one in parsed(objects[1]).SegmentSequence:
        region = one.get("AnatomicRegionSequence")
        sides = (
            region[0].AnatomicRegionModifierSequence
            if region
            else one.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
        )
        assert [side.CodeValue for side in sides] == ["7771000"]
    assert faults(objects, tmp_path) == []


def cine(folder: Path, times: int = 5, *, timed: bool = True) -> list[Path]:
    """Write a series of several moments; each image has its trigger time, or only the number of its moment."""
    images = []
    for t in range(times):
        for k, ds in enumerate(phantoms.series()):
            ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.{t}"
            if timed:
                ds.TriggerTime = 40.0 * t + k
            ds.TemporalPositionIdentifier = t + 1
            ds.InstanceNumber = k * times + t + 1
            images.append(ds)
    return phantoms.write_series(folder, images)


def test_a_beat_has_two_segmentations_a_curve_and_one_report_over_all_images(package: Package, tmp_path: Path) -> None:
    segment = {"number": 1, "name": "LV", "category": CODE, "type": CODE, "rgb": [200, 0, 0]}
    outputs = CineSegmentation.model_validate({"kind": "cine_segmentation", "segments": [segment], "cavity": 1})
    sequence = read_sequence(cine(tmp_path))
    maps = []
    for size in (10, 12, 8, 4, 7):  # largest at the second moment, smallest at the fourth
        label_map = np.zeros(sequence[0][0].shape, np.uint8)
        label_map[3:9, 10 : 10 + size, 10 : 10 + size] = 1
        maps.append(label_map)
    moments = [Moment((volume,), (source,)) for volume, source in sequence]
    objects, (cavity,) = made_of(Reading(tuple(maps)), moments, with_outputs(package, outputs))
    assert [(one.role, one.name) for one in objects] == [
        ("SR", "sr"), ("SEG", "seg"), ("SEG", "seg-systole"), ("SC", "curve"),
    ]  # fmt: skip
    values = {one.name.meaning: one.value for one in cavity.measurements}
    assert values["Cardiac ejection fraction"] == pytest.approx(100 * (144 - 16) / 144)
    for one, moment, count in ((objects[1], 1, 144), (objects[2], 3, 16)):
        ds = parsed(one)
        bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
        assert bits.sum() == 6 * count
        referenced = {
            item.ReferencedSOPInstanceUID for item in ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        }
        assert referenced == {frame.sop_instance_uid for frame in moments[moment].sources[0].frames}
    told = report(objects[0])
    phases = [g for g in told.get_image_measurement_groups() if g.tracking_uid == cavity.tracking_uid]
    volumes = [one.value for g in phases for one in g.get_measurements() if one.name.meaning == "Volume"]
    assert volumes == pytest.approx([ml for _, ml in cavity.curve])
    evidence = parsed(objects[0]).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert sorted(len(one.ReferencedSOPSequence) for one in evidence) == [1, 1, 1, 5 * 12]
    assert len({one.at.series_instance_uid for one in objects}) == 4
    assert faults(objects, tmp_path) == []


@pytest.mark.parametrize("timed", [True, False])
def test_only_what_is_timed_from_the_r_wave_is_said_in_ms(package: Package, tmp_path: Path, timed: bool) -> None:
    segment = {"number": 1, "name": "LV", "category": CODE, "type": CODE, "rgb": [200, 0, 0]}
    outputs = CineSegmentation.model_validate({"kind": "cine_segmentation", "segments": [segment], "cavity": 1})
    sequence = read_sequence(cine(tmp_path, timed=timed))
    maps = [np.zeros(sequence[0][0].shape, np.uint8) for _ in sequence]
    for size, label_map in zip((10, 12, 8, 4, 7), maps, strict=True):
        label_map[3:9, 10 : 10 + size, 10 : 10 + size] = 1
    moments = [Moment((volume,), (source,)) for volume, source in sequence]
    objects, (cavity,) = made_of(Reading(tuple(maps)), moments, with_outputs(package, outputs))
    times = [5.5 + 40 * n for n in range(5)] if timed else [None] * 5
    assert [ms for ms, _ in cavity.curve] == times
    told = parsed(objects[0]).to_json()
    assert ("Temporal Offset" in told) is timed
    assert told.count('"phase 5"') >= 1
    assert faults(objects, tmp_path) == []


def test_the_curve_of_untimed_moments_counts_phases(package: Package) -> None:
    from dicom_nodes.curve_picture import drawn, times_of

    timed, untimed = [(0.0, 100.0), (40.0, 60.0)], [(None, 100.0), (40.0, 60.0)]
    assert (times_of(timed), times_of(untimed)) == ([0.0, 40.0], [])
    assert not np.array_equal(drawn(timed, 0, 1, context()), drawn(untimed, 0, 1, context()))


def test_the_curve_is_a_picture_that_names_no_patient(package: Package, tmp_path: Path) -> None:
    from dicom_nodes.curve_picture import drawn

    first = drawn([(0.0, 100.0), (40.0, 60.0), (80.0, 90.0)], 0, 1, context())
    assert first.shape == (400, 640, 3)
    assert np.array_equal(first, drawn([(0.0, 100.0), (40.0, 60.0), (80.0, 90.0)], 0, 1, context()))
    assert not np.array_equal(first, drawn([(0.0, 100.0), (40.0, 30.0), (80.0, 90.0)], 0, 1, context()))

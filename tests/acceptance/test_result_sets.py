"""Every shipped package times every kind of object, before the validators and readers of others.

What the networks would say is made up; everything after them is what runs in a worker, its own checks included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from appliance.volume import Volume
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_classes import BY_ROLE
from models.package import Package
from models.reading import Reading
from models.registry import ZOO, shipped
from tests import phantoms
from tests.acceptance.validators import disagreements, errors, lines, read_by_dcmqi, tool
from tests.made_up import OLD_REPORT, blobs, context
from tests.phantoms import Phantom
from workers.pipeline import Inferred, Made, read_study

pytestmark = pytest.mark.acceptance

PHASES = 6
EVERY_ROLE = frozenset(BY_ROLE)
NOT_KNOWN_TO_THE_TOOL = "LABELMAP"  # dciodvfy is older than that class
OF_A_LABEL_MAP = "Shall not be present for Referenced SOP Class that is not segmentation"


@dataclass(frozen=True)
class ResultSet:
    """One study, and all that was made of it."""

    package: Package
    images: Sequence[Path]
    volume: Volume
    made: Made
    files: dict[str, Path]  # by name, "…" + " (variant)"

    def of_role(self, role: str) -> list[Path]:
        """Return the files of one role."""
        return [path for path, one in zip(self.files.values(), self.made.objects, strict=True) if one.role == role]


def series(folder: Path, sop_class: str = phantoms.MR, number: int = 1, names: str = "") -> list[Path]:
    images = phantoms.series(Phantom(sop_class=sop_class, series=number))
    return phantoms.write_series(folder / str(number), [_renamed(ds, names) for ds in images])


def _renamed(ds: Dataset, names: str) -> Dataset:
    return phantoms.with_character_set(ds, names) if names else ds


def cine(folder: Path) -> list[Path]:
    images = []
    for t in range(PHASES):
        for k, ds in enumerate(phantoms.series()):
            ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.{t}"
            ds.TriggerTime, ds.TemporalPositionIdentifier = 40.0 * t + k, t + 1
            ds.InstanceNumber = k * PHASES + t + 1
            images.append(ds)
    return phantoms.write_series(folder, images)


def said(package: Package, volume: Volume) -> Reading:
    """Return what a network of this kind might say of a volume."""
    outputs = package.manifest.outputs
    if outputs.kind == "classification":
        return Reading(probabilities=(0.25, 0.75))
    if outputs.kind == "cine_segmentation":
        whole = blobs(volume.shape, len(outputs.segments))
        return Reading(
            tuple(np.where(np.arange(volume.shape[2]) < 12 + 2 * t, whole, np.uint8(0)) for t in range(PHASES))
        )
    if outputs.kind == "detection":
        labels = blobs(volume.shape, len(outputs.segments) + 2)
        labels[labels == 2] = 1  # what is found belongs to candidates alone
        return Reading((labels,), (0.9, 0.6), probability=labels * np.uint8(50))
    regions = tuple(package.manifest.locator.regions) if package.manifest.locator else ()
    names = tuple(one.name for one in regions)
    return Reading((blobs(volume.shape, len(outputs.segments) * max(1, len(names))),), regions=names)


def inputs_of(package: Package, folder: Path, names: str = "") -> list[list[Path]]:
    if package.manifest.outputs.kind == "cine_segmentation":
        return [cine(folder)]
    sop_class = phantoms.CT if package.name in ("lung-nodule", "head-bleed") else phantoms.MR
    return [series(folder, sop_class, n + 1, names) for n in range(len(package.manifest.inputs))]


def results(package: Package, folder: Path, wanted: frozenset[str], names: str = "") -> ResultSet:
    inputs = inputs_of(package, folder / "images", names)
    seen: list[Volume] = []

    def infer(sequence: Sequence[Sequence[Volume]]) -> Inferred:
        seen.append(sequence[0][0])
        return Inferred(said(package, sequence[0][0]), "openvino", "f32", 0.0)

    about = context(
        package=package.name,
        package_version=package.version,
        package_digest=package.digest,
        title=package.manifest.title,
        supersedes=(OLD_REPORT,),
        patient_key="phantom",
    )
    made = read_study(inputs, package, infer, lambda _: about, wanted)
    files = {}
    for one in made.objects:
        path = folder / f"{one.name}{'-' + one.variant if one.variant else ''}.dcm"
        path.write_bytes(one.content)
        files[path.stem] = path
    return ResultSet(package, [path for several in inputs for path in several], seen[0], made, files)


@pytest.fixture(scope="module", params=sorted(path.name for path in ZOO.iterdir() if (path / "package.json").exists()))
def result_set(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ResultSet:
    return results(shipped(ZOO / request.param), tmp_path_factory.mktemp("set"), EVERY_ROLE)


def test_every_role_is_made_that_fits(result_set: ResultSet) -> None:
    kind = result_set.package.manifest.outputs.kind
    roles = {one.role for one in result_set.made.objects}
    expected = {
        "segmentation": EVERY_ROLE - {"PMAP"},
        "detection": EVERY_ROLE,
        "cine_segmentation": EVERY_ROLE - {"PMAP", "LABELMAP"},
        "classification": {"SR", "PDF", "KOS"},
    }[kind]
    assert roles == expected


def test_dciodvfy_finds_no_error(result_set: ResultSet) -> None:
    for path, one in zip(result_set.files.values(), result_set.made.objects, strict=True):
        if one.role == NOT_KNOWN_TO_THE_TOOL:
            continue
        found = errors(path)
        if one.variant == "labelmap":
            found = [line for line in found if OF_A_LABEL_MAP not in line]
        assert found == [], path.name


def test_dcentvfy_finds_one_patient_and_one_study(result_set: ResultSet, tmp_path: Path) -> None:
    assert disagreements(result_set.images, list(result_set.files.values()), tmp_path) == []


def test_dcmqi_reads_every_segmentation_back(result_set: ResultSet, tmp_path: Path) -> None:
    held = {one.name: one.holds for one in result_set.made.objects if one.role == "SEG" and one.holds}
    for name, what in held.items():
        folder = tmp_path / name
        folder.mkdir()
        (path,) = [file for stem, file in result_set.files.items() if stem in (name, f"{name}-binary")]
        numbers = np.zeros(256, np.uint8)
        for label, number in what.numbers.items():
            numbers[label] = number
        assert np.array_equal(read_by_dcmqi(path, what.volume, folder), numbers[what.label_map])
    assert held or result_set.package.manifest.outputs.kind == "classification"


def test_dcmqi_reads_our_numbers_back(result_set: ResultSet, tmp_path: Path) -> None:
    target, report = tmp_path / "sr.json", result_set.of_role("SR")[0]
    lines(tool("tid1500reader"), "--inputDICOM", report, "--outputMetadata", target)
    groups = json.loads(target.read_text())["Measurements"]
    read = {
        (group["TrackingUniqueIdentifier"], item["quantity"]["CodeValue"], item["units"]["CodeValue"]): item["value"]
        for group in groups
        for item in group.get("measurementItems", ())
    }
    count = 0
    for finding in result_set.made.findings:
        for one in finding.measurements if finding.voxels else ():
            key = (finding.tracking_uid, one.name.value, one.unit.value)
            assert float(read[key]) == pytest.approx(one.value, rel=1e-6)
            count += 1
    assert count or result_set.package.manifest.outputs.kind == "classification"


def test_a_second_run_writes_the_same_bytes(result_set: ResultSet, tmp_path: Path) -> None:
    again = results(result_set.package, tmp_path, EVERY_ROLE)
    assert [one.content for one in again.made.objects] == [one.content for one in result_set.made.objects]


@pytest.mark.parametrize("names", sorted(phantoms.CHARACTER_SETS))
def test_names_arrive_as_they_are_written(names: str, tmp_path: Path) -> None:
    found = results(shipped(ZOO / "lung-nodule"), tmp_path, EVERY_ROLE, names)
    _, _, name = phantoms.CHARACTER_SETS[names]
    for path, one in zip(found.files.values(), found.made.objects, strict=True):
        with lenient():
            ds = dcmread(path)
            assert str(ds.PatientName) == name, path.name
            assert ds.SpecificCharacterSet == "ISO_IR 192"
        if one.role != NOT_KNOWN_TO_THE_TOOL:
            assert [line for line in errors(path) if OF_A_LABEL_MAP not in line] == []
    assert disagreements(found.images, list(found.files.values()), tmp_path) == []

"""Results before the validators of others: dciodvfy, dcentvfy, dcmqi. The bars are CONTRACT.md's.

Lines that the source's own values cause are those that the validator also says of the source; they are listed, not
counted. Needs dicom3tools (dciodvfy, dcentvfy) and dcmqi; the real series need the folder that CURIE_SHARED names.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from appliance.volume import Volume
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.report import write_report
from dicom_nodes.segmentation import segment_references, write_segmentation
from dicom_nodes.volume_reader import read_series
from tests import phantoms
from tests.acceptance.house import absent
from tests.acceptance.validators import disagreements, errors, is_of_source, lines, read_by_dcmqi, tool, values_of
from tests.made_up import OLD_REPORT, LabelMap, blobs, context, findings
from tests.phantoms import Phantom

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]
SHARED = ROOT / os.environ.get("CURIE_SHARED", "../shared")
SEGMENTS = 7
Bench = Callable[[Path], Sequence[Path]]


@dataclass(frozen=True)
class Results:
    """One series and what was written of it."""

    images: Sequence[Path]
    volume: Volume
    label_map: LabelMap
    segmentation: Path
    report: Path


def phantom_series(phantom: Phantom | None = None, change: phantoms.Change | None = None) -> Bench:
    return lambda folder: phantoms.write_series(folder, phantoms.series(phantom, change))


def named(name: str) -> Bench:
    return lambda folder: phantoms.write_series(
        folder, [phantoms.with_character_set(ds, name) for ds in phantoms.series()]
    )


def enhanced(folder: Path) -> Sequence[Path]:
    return phantoms.write_series(folder, [phantoms.enhanced()])


def archived(name: str, series: str = "") -> Bench:
    """Return the series of a shared archive: the files of the first folder that begins so."""

    def unpack(folder: Path) -> Sequence[Path]:
        if not (SHARED / "data" / "unpack").exists():
            absent("the shared data are not here (CURIE_SHARED)")
        subprocess.run([SHARED / "data" / "unpack", folder, name], check=True, capture_output=True)
        root = folder / name
        return sorted(
            (next(p for p in sorted(root.iterdir()) if p.name.startswith(series)) if series else root).glob("*.dcm")
        )

    return unpack


def shared_file(name: str) -> Bench:
    def find(_: Path) -> Sequence[Path]:
        if not (SHARED / "data" / "syntax_and_odd").exists():
            absent("the shared data are not here (CURIE_SHARED)")
        return [SHARED / "data" / "syntax_and_odd" / name]

    return find


SERIES: dict[str, Bench] = {
    "axial MR": phantom_series(),
    "oblique CT": phantom_series(Phantom(orientation="oblique", sop_class=phantoms.CT)),
    "sagittal": phantom_series(Phantom(orientation="sagittal", rows=33, columns=35)),
    "coronal": phantom_series(Phantom(orientation="coronal")),
    "own frames of reference": phantom_series(change=phantoms.own_frame_of_reference),
    "leading zero UIDs": phantom_series(change=phantoms.leading_zero_uids),
    "enhanced MR": enhanced,
    "japanese": named("japanese"),
    "cyrillic": named("cyrillic"),
    "arabic": named("arabic"),
    "siemens head": archived("mr_brain_t1_siemens_skyra_sag"),
    "tumour": archived("mr_brain_tumour_tcia_pgbm003", "26401"),
    "enhanced CT": shared_file("eCT_Supplemental.dcm"),
}


@pytest.fixture(scope="module", params=list(SERIES))
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("results")
    images = SERIES[request.param](folder / "images")
    volume, source = read_series(images)
    made = context(supersedes=(OLD_REPORT,))
    label_map = blobs(volume.shape, SEGMENTS if len(volume.voxels) > 2 else 2)
    found = findings(made, int(label_map.max()))
    segmentation = write_segmentation(label_map, volume, found, source, made)
    report = write_report(found, label_map, volume, source, made, segment_references(found, made))
    (folder / "seg.dcm").write_bytes(segmentation)
    (folder / "sr.dcm").write_bytes(report)
    return Results(images, volume, label_map, folder / "seg.dcm", folder / "sr.dcm")


@pytest.mark.parametrize("kind", ["segmentation", "report"])
def test_dciodvfy(results: Results, kind: str) -> None:
    values = values_of(results.images)
    found = errors(getattr(results, kind))
    own = [line for line in found if not is_of_source(line, values)]
    print(f"{len(found) - len(own)} errors are the source's own")
    assert own == []


def test_dcentvfy(results: Results, tmp_path: Path) -> None:
    assert disagreements(results.images, [results.segmentation, results.report], tmp_path) == []


def test_dcmqi_reads_the_label_map_back_in_patient_space(results: Results, tmp_path: Path) -> None:
    assert np.array_equal(read_by_dcmqi(results.segmentation, results.volume, tmp_path), results.label_map)


def test_dcmqi_reads_the_values_back(results: Results, tmp_path: Path) -> None:
    target = tmp_path / "sr.json"
    lines(tool("tid1500reader"), "--inputDICOM", results.report, "--outputMetadata", target)
    if f"{phantoms.ROOT}.007" in values_of(results.images):  # DCMTK reads no SR that refers to such UIDs, and they are
        assert "Measurements" not in target.read_text()  # the images' own; should it learn to, this line tells
        return
    groups = json.loads(target.read_text())["Measurements"]
    volumes = {
        group["TrackingUniqueIdentifier"]: group["measurementItems"] for group in groups if "ReferencedSegment" in group
    }
    expected = findings(context(supersedes=(OLD_REPORT,)), int(results.label_map.max()))
    assert len(groups) == 2 * len(expected)
    for finding in expected:
        (measured,) = volumes[finding.tracking_uid]
        assert float(measured["value"]) == pytest.approx(finding.measurements[0].value)
        assert measured["units"]["CodeValue"] == "ml"


def test_highdicom_and_pydicom_read_both(results: Results) -> None:
    with lenient():
        for path in (results.segmentation, results.report):
            ds = dcmread(path)
            assert isinstance(ds, Dataset)
            list(ds.iterall())

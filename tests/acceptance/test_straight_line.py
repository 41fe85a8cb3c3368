"""A PACS sends real studies, and holds a committed SEG and SR of the one that suits. Issue 2's own sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_nodes.header import read_header
from dicom_nodes.segmentation_reader import read_segmentation
from dicom_nodes.volume_reader import read_volume
from models.deciding import read
from models.engines import Place, choose_engine
from models.measure import measure
from models.reading import Reading
from models.registry import ZOO, shipped
from tests.acceptance import test_validators as validators
from tests.acceptance.house import Appliance, Orthanc, dcmsend, wait_for
from tests.acceptance.test_validators import Results

pytestmark = pytest.mark.acceptance
Pair = tuple[Appliance, Orthanc]


@dataclass(frozen=True)
class Sent:
    """A study that was sent, and its outcome."""

    files: list[Path]
    study: str
    outcome: dict[str, Any]


def study_of(folder: Path) -> tuple[list[Path], str]:
    files = sorted(path for path in folder.rglob("*") if path.suffix == ".dcm")
    return files, str(read_header(files[0]).StudyInstanceUID)


@pytest.fixture(scope="module")
def head(pair: Pair, unpacked: Callable[[str], Path]) -> Sent:
    appliance, orthanc = pair
    files, study = study_of(unpacked("mr_brain_t1_siemens_skyra_sag"))
    dcmsend([files[0].parent], appliance.port)
    outcome = appliance.final(study, seconds=240)
    dcmsend_to_pacs = orthanc.post  # the images lie in the PACS too, as in life
    for path in files:
        dcmsend_to_pacs("/instances", path.read_bytes())
    return Sent(files, study, outcome)


@pytest.fixture(scope="module")
def made(pair: Pair, head: Sent, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What lies in the PACS, beside the label map that the same package makes of the same files here."""
    _, orthanc = pair
    folder = tmp_path_factory.mktemp("from-pacs")
    paths = {}
    for modality, ids in orthanc.results(head.study).items():
        assert len(ids) == 1
        paths[modality] = folder / f"{modality}.dcm"
        paths[modality].write_bytes(orthanc.content(f"/instances/{ids[0]}/file"))
    volume = read_volume(head.files)
    package = shipped(ZOO / "brain-structures")
    (label_map,) = read([[volume]], package, choose_engine(package, ("openvino",), Place("cpu")).engine).label_maps
    numbers = np.zeros(256, np.uint8)  # a SEG numbers the segments that it has from 1, without a gap
    for number, finding in enumerate(measure(Reading((label_map,)), [volume], package), start=1):
        numbers[finding.segment_number] = number
    label_map = numbers[label_map]
    return Results(head.files, volume, label_map, paths["SEG"], paths["SR"])


def test_the_head_ends_completed_with_committed_results(pair: Pair, head: Sent) -> None:
    appliance, orthanc = pair
    assert head.outcome["outcome"] == "completed", head.outcome["reason"]
    assert {r["role"]: r["state"] for r in head.outcome["results"]} == {"SEG": "committed", "SR": "committed"}
    assert {k: len(v) for k, v in orthanc.results(head.study).items()} == {"SEG": 1, "SR": 1}
    told = appliance.json("explain", head.study)
    assert told["instances"] == 192
    assert told["complete"]["reason"] == "released"
    assert {"complete_s", "wait_s", "volume_s", "inference_s", "results_s", "delivery_s", "total_s"} <= set(
        head.outcome["timings"]
    )


def test_volumes_of_a_head_are_those_of_a_head(head: Sent) -> None:
    volumes = {f["name"]: f["measurements"][0]["value"] for f in head.outcome["findings"]}
    assert len(volumes) >= 6
    assert 700 < sum(volumes.values()) < 2500, volumes


def test_both_routes_share_one_job(pair: Pair, head: Sent) -> None:
    appliance, _ = pair
    other = appliance.final(head.study, "anything")
    assert other["job"] == head.outcome["job"]
    assert len([j for j in appliance.json("jobs", "list") if j["study_instance_uid"] == head.study]) == 1


@pytest.mark.parametrize("kind", ["segmentation", "report"])
def test_dciodvfy_finds_no_error(made: Results, kind: str) -> None:
    validators.test_dciodvfy(made, kind)


def test_dcentvfy_finds_no_error(made: Results, tmp_path: Path) -> None:
    validators.test_dcentvfy(made, tmp_path)


def test_dcmqi_reads_the_segmentation_equal_to_the_label_map_in_patient_space(made: Results, tmp_path: Path) -> None:
    validators.test_dcmqi_reads_the_label_map_back_in_patient_space(made, tmp_path)


def test_dcmqi_reads_the_report(made: Results, head: Sent, tmp_path: Path) -> None:
    import json

    target = tmp_path / "sr.json"
    validators.lines(validators.tool("tid1500reader"), "--inputDICOM", made.report, "--outputMetadata", target)
    groups = [g for g in json.loads(target.read_text())["Measurements"] if "ReferencedSegment" in g]
    read = {g["TrackingUniqueIdentifier"]: float(g["measurementItems"][0]["value"]) for g in groups}
    ours = {f["tracking_uid"]: f["measurements"][0]["value"] for f in head.outcome["findings"]}
    assert read == pytest.approx(ours, rel=1e-3)


def test_our_own_reader_agrees(made: Results) -> None:
    assert np.array_equal(read_segmentation(made.segmentation, made.volume), made.label_map)


def test_the_chest_is_not_routed_and_unsuitable_with_the_reasons(pair: Pair, unpacked: Callable[[str], Path]) -> None:
    appliance, orthanc = pair
    files, study = study_of(unpacked("ct_chest_cptac_C3N-00247"))
    dcmsend([files[0].parent], appliance.port)
    by_match = appliance.final(study, "brain-mr")
    by_package = appliance.final(study, "anything")
    assert by_match["outcome"] == "not_routed"
    assert "Modality is CT" in by_match["reason"]
    assert by_package["outcome"] == "unsuitable"
    assert "modality is CT, the package reads MR" in by_package["reason"]
    assert orthanc.results(study) == {}


def test_a_pacs_that_forwards_everything_back_three_times_causes_nothing(pair: Pair, head: Sent) -> None:
    appliance, orthanc = pair
    before = appliance.json("jobs", "list")
    for _ in range(3):
        orthanc.send_all_to_curie()
    wait_for("the forwarded results", lambda: appliance.json("status")["instances"]["result"] >= 2, 30)
    wait_for("completeness", lambda: appliance.json("status")["studies"]["receiving"] == 0, 60)
    assert appliance.json("jobs", "list") == before
    assert {k: len(v) for k, v in orthanc.results(head.study).items()} == {"SEG": 1, "SR": 1}
    assert appliance.final(head.study)["results"] == head.outcome["results"]


def test_the_spool_holds_the_bytes_that_were_sent(pair: Pair, head: Sent) -> None:
    appliance, _ = pair
    kept = {path.read_bytes()[-4000:] for path in (appliance.folder / "data" / "spool").glob("??/*.dcm")}
    assert all(path.read_bytes()[-4000:] in kept for path in head.files)


def test_no_log_names_the_patient(pair: Pair, head: Sent) -> None:
    appliance, _ = pair
    ds = read_header(head.files[0])
    log = (appliance.folder / "up.log").read_text()
    names = {part for part in re.split(r"[\^ ]", str(ds.PatientName)) if len(part) > 3}
    assert names
    assert not [name for name in names if name in log]
    assert not str(ds.PatientID) or len(str(ds.PatientID)) < 4 or str(ds.PatientID) not in log

"""The packages beside the brain, on real studies sent by C-STORE: neurology, cardiology, oncology, triage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from appliance.settings import Destination
from dicom_nodes import sender
from dicom_nodes.segmentation_reader import read_masks
from tests.acceptance.house import Appliance, Orthanc, free_port, wait_for
from tests.acceptance.test_straight_line import study_of

pytestmark = [pytest.mark.acceptance, pytest.mark.filterwarnings("ignore:Invalid value for VR UI")]
ROUTES = "".join(
    f'''
[[routes]]
name = "{package}"
package = "{package}"
destinations = ["pacs"]
priority = "{priority}"
'''
    for package, priority in (
        ("hippocampus", "routine"),
        ("cardiac-lv", "routine"),
        ("lung-nodule", "routine"),
        ("brain-tumour", "routine"),
        ("head-bleed", "urgent"),
    )
)
CURIE_TO_TEST = ("hippocampus", "cardiac-lv", "lung-nodule", "brain-tumour", "head-bleed")
EXPERT_EF = 25.0  # of the held-back study: 254 and 191 ml, areas of the experts' contours × slice distance


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Appliance, Orthanc]]:
    """An appliance with a route for each pathway, and a PACS that takes pictures too."""
    folder = tmp_path_factory.mktemp("pathways")
    orthanc = Orthanc(folder / "orthanc", free_port())
    appliance = Appliance(folder / "curie", orthanc.port, port=orthanc.curie_port)
    text = appliance.file.read_text()
    head, _, _ = text.partition("[[routes]]")
    head = head.replace("[[routes]]", "").replace('name = "pacs"', 'name = "pacs"\nresults = ["SEG", "SR", "SC"]')
    appliance.file.write_text(head + ROUTES)
    orthanc.start()
    try:
        appliance.start()
        yield appliance, orthanc
    finally:
        if appliance.process and appliance.process.poll() is None:
            appliance.stop()
        orthanc.stop()


def sent(house: tuple[Appliance, Orthanc], folder: Path, route: str) -> tuple[str, dict[str, Any]]:
    """Send a study and return its UID and the outcome of one route."""
    appliance, _ = house
    files, study = study_of(folder)
    store_as_is(files, appliance.port)
    return study, appliance.final(study, route, seconds=300)


def store_as_is(files: Sequence[Path], port: int) -> None:
    """Send files letter for letter; DCMTK's sender refuses UIDs with leading zeros, which real scanners write."""
    ourselves = Destination(name="curie", ae_title="CURIE", host="127.0.0.1", port=port)
    with sender.associate(ourselves, "SCANNER", sender.series_contexts(files)) as association:
        for file in files:
            sender.store_as_is(association, file)


def measured(outcome: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {f["name"]: {m["name"]: m["value"] for m in f["measurements"]} for f in outcome["findings"]}


def test_a_crop_gets_its_hippocampus_and_three_series_their_tumour(
    house: tuple[Appliance, Orthanc], unpacked: Callable[[str], Path]
) -> None:
    appliance, _ = house
    folder = unpacked("mr_brain_tumour_tcia_pgbm003")
    study, hippocampus = sent(house, folder, "hippocampus")
    assert hippocampus["outcome"] == "completed", hippocampus["reason"]
    volumes = {name: of["Volume"] for name, of in measured(hippocampus).items()}
    assert set(volumes) == {"Anterior hippocampus", "Posterior hippocampus"}
    assert all(0.8 < ml < 4.0 for ml in volumes.values())

    tumour = appliance.final(study, "brain-tumour", seconds=300)
    assert tumour["outcome"] == "completed", tumour["reason"]
    described = {
        str(ds.SeriesInstanceUID): str(ds.SeriesDescription)
        for ds in (
            dcmread(path, stop_before_pixels=True) for path in study_of(unpacked("mr_brain_tumour_tcia_pgbm003"))[0]
        )
    }
    read = {name: described[uid] for name, uid in tumour["inputs"].items()}
    assert read == {"t1-post": "T1post", "flair": "FLAIR_reg", "t2": "T2_reg"}
    (report,) = [r for r in tumour["results"] if r["role"] == "SR"]
    evidence = dcmread(report["path"]).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert set(tumour["inputs"].values()) <= {str(one.SeriesInstanceUID) for one in evidence}

    other = appliance.final(study, "head-bleed")
    assert other["outcome"] == "unsuitable"
    assert "the package reads CT" in other["reason"]


def test_a_beating_heart_gets_its_ejection_fraction_two_segmentations_and_a_curve(
    house: tuple[Appliance, Orthanc], unpacked: Callable[[str], Path]
) -> None:
    folder = unpacked("mr_cardiac_cine_sunnybrook") / "SC-HF-I-2"
    _, outcome = sent(house, folder, "cardiac-lv")
    assert outcome["outcome"] == "completed", outcome["reason"]
    roles = Counter(r["role"] for r in outcome["results"])
    assert (roles["SEG"], roles["SR"]) == (2, 1)
    assert roles["SC"] >= 2  # the curve, and the key slices of a destination that takes pictures
    assert set(roles) == {"SEG", "SR", "SC"}
    assert {r["state"] for r in outcome["results"]} == {"committed"}
    ejected = measured(outcome)["Left ventricular cavity"]["Cardiac ejection fraction"]
    assert abs(ejected - EXPERT_EF) <= 8.0


def test_the_mass_in_the_right_lower_lobe_is_a_candidate(
    house: tuple[Appliance, Orthanc], unpacked: Callable[[str], Path]
) -> None:
    _, outcome = sent(house, unpacked("ct_chest_cptac_C3N-00247"), "lung-nodule")
    assert outcome["outcome"] == "completed", outcome["reason"]
    candidates = [f for f in outcome["findings"] if f["name"].startswith("Lung nodule")]
    assert 1 <= len(candidates) <= 10
    assert all(0 < one["probability"] <= 1 for one in candidates)
    (segmentation,) = [r for r in outcome["results"] if r["role"] == "SEG"]
    centres = {}
    for name, frames in read_masks(Path(segmentation["path"])).items():
        heights = np.array([place[2] for place in frames])
        centres[name] = heights.mean()
    near = [name for name, height in centres.items() if name.startswith("Lung nodule") and -205 < height < -180]
    assert near, "no candidate at the height of the mass"


def test_every_pathway_says_why_it_did_not_run(
    house: tuple[Appliance, Orthanc], unpacked: Callable[[str], Path]
) -> None:
    appliance, _ = house
    _, study = study_of(unpacked("ct_chest_cptac_C3N-00247"))
    told = wait_for("all outcomes", lambda: appliance.json("explain", study)["outcomes"], 60)
    by_route = {one["route"]: one for one in told if one["route"]}
    assert set(CURIE_TO_TEST) == set(by_route)
    for route in ("hippocampus", "cardiac-lv", "brain-tumour"):
        assert by_route[route]["outcome"] == "unsuitable"
        assert "modality is CT" in by_route[route]["reason"]

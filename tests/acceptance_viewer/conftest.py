"""One Orthanc, appliance, viewer and browser for all tests of what a radiologist sees; pictures are kept."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import requests
from pydicom import Dataset, dcmread

from appliance.finding import HOUNSFIELD, MAXIMUM, MEAN, MINIMUM, Finding, Measurement
from appliance.job import ResultContext
from deploy.viewer.demo import ORTHANC, Scene, listening_socket, scene, store
from dicom_nodes.report import write_report
from dicom_nodes.sample import write_sample
from dicom_nodes.segmentation import segment_references, write_segmentation
from tests import made_up, phantoms
from tests.acceptance_viewer.browser import chromium
from tests.acceptance_viewer.page import Page

TOOLS = ("Orthanc", "chromium")
SHOWN = Path(__file__).parents[2] / ".build" / "acceptance-viewer"
COLOURS = ((220, 40, 40), (40, 200, 60), (70, 90, 240))
OBLIQUE = phantoms.Phantom(rows=96, columns=80, orientation="oblique", study=2)  # its pixels are not square
WHOLE = phantoms.Phantom(rows=96, columns=80, study=3)


@dataclass(frozen=True)
class Study:
    """A study in the PACS."""

    address: str  # of it in the viewer
    images: dict[str, Dataset]  # by SOP Instance UID
    results: dict[str, list[Dataset]]  # by Modality


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The demo with its sample, and made-up studies beside it."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not absent, f"not installed: {', '.join(absent)}; `make acceptance-viewer` installs them"
    folder = tmp_path_factory.mktemp("scene")
    with scene(folder, listening_socket(), write_sample(folder / "sample")) as there:
        assert there.outcome["outcome"] == "completed", there.outcome
        store([*oblique(folder / "oblique"), *of_the_whole(folder / "whole")])
        yield there


@pytest.fixture(scope="session")
def studies(running: Scene) -> dict[str, Study]:
    """All studies of the PACS, read back from it, by name."""
    uids = {"sample": running.study, "oblique": phantoms.uid(OBLIQUE.study), "whole": phantoms.uid(WHOLE.study)}
    return {name: read_back(uid, f"{running.url}/viewer?StudyInstanceUIDs={uid}") for name, uid in uids.items()}


@pytest.fixture(scope="session")
def session_page(running: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The browser; earlier pictures are removed."""
    shutil.rmtree(SHOWN, ignore_errors=True)
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield Page(browser, SHOWN)


@pytest.fixture
def page(session_page: Page) -> Iterator[Page]:
    """The browser; it must report no failure of the page."""
    yield session_page
    assert session_page.browser.failures == []


def read_back(uid: str, address: str) -> Study:
    """Read a whole study from the PACS."""
    (study,) = requests.post(f"{ORTHANC}/tools/lookup", uid, timeout=60).json()
    images: dict[str, Dataset] = {}
    results: dict[str, list[Dataset]] = {}
    for instance in requests.get(f"{ORTHANC}{study['Path']}/instances", timeout=60).json():
        file = requests.get(f"{ORTHANC}/instances/{instance['ID']}/file", timeout=60).content
        ds = dcmread(io.BytesIO(file))
        if ds.Modality == "MR":
            images[ds.SOPInstanceUID] = ds
        else:
            results.setdefault(ds.Modality, []).append(ds)
    return Study(address, images, results)


def oblique(folder: Path) -> list[Path]:
    """Write a made-up study with segmentation and report."""
    made = made_up.context(job_id="0b9ddd8a-9ff7-5d4e-8d65-000000000002")
    labels, volume, source = made_up.read_phantom(folder, OBLIQUE, windowed(OBLIQUE))
    found = coloured(made)
    seg = write_segmentation(labels, volume, found, source, made)
    report = write_report(found, labels, volume, source, made, segment_references(found, made))
    return [*folder.iterdir(), written(folder / "seg", seg), written(folder / "sr", report)]


def of_the_whole(folder: Path) -> list[Path]:
    """Write a made-up study with a report only: a probability of the whole, which has no outline, before outlines."""
    made = made_up.context(job_id="0b9ddd8a-9ff7-5d4e-8d65-000000000003")
    labels, volume, source = made_up.read_phantom(folder, WHOLE, windowed(WHOLE))
    first, *others = coloured(made)
    labels[labels == first.segment_number] = 0
    first = replace(first, segment_number=0, voxels=0, probability=0.83, operating_point=0.5)
    report = write_report([first, *others], labels, volume, source, made)
    return [*folder.iterdir(), written(folder / "sr", report)]


def windowed(phantom: phantoms.Phantom) -> list[Dataset]:
    return phantoms.series(phantom, WindowCenter="400", WindowWidth="1000")


def coloured(made: ResultContext) -> list[Finding]:
    """Return three findings in colours of their own, the second with more numbers than OHIF has lines for."""
    first, second, third = (replace(one, rgb=rgb) for one, rgb in zip(made_up.findings(made), COLOURS, strict=True))
    several = tuple(Measurement(name, 1.5 * n, HOUNSFIELD) for n, name in enumerate((MEAN, MINIMUM, MAXIMUM), 1))
    return [first, replace(second, measurements=second.measurements + several), third]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path

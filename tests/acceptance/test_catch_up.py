"""Studies that a real PACS has and that never came are found by C-FIND, fetched by C-MOVE or C-GET, and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless

from tests.acceptance.house import Appliance, Orthanc, dcmsend, free_port, wait_for
from tests.phantoms import Phantom, part10, series

pytestmark = pytest.mark.acceptance
DAY = "2026-03-14"


def write_study(folder: Path, study: str, count: int, syntax: str = "explicit") -> list[Path]:
    """Write a small MR study of that day."""
    folder.mkdir(parents=True)
    paths = []
    for n, ds in enumerate(series(Phantom(slices=count))):
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, f"{study}.1", f"{study}.1.{n + 1}"
        ds.StudyDate = DAY.replace("-", "")
        paths.append(folder / f"{n}.dcm")
        paths[-1].write_bytes(part10(ds, syntax))
    return paths


def missed(appliance: Appliance, *words: str) -> dict[str, str]:
    told = appliance.json("catch-up", "ORTHANC", "--since", DAY, "--until", DAY, "--per-minute", "600", *words)
    return {one["study"]: one["reason"] for one in told["missed"]}


def known(appliance: Appliance, study: str) -> int:
    """Return how many images of a study the appliance has."""
    ran = appliance.run("explain", study, "--json")
    return int(appliance.json("explain", study)["instances"]) if ran.returncode == 0 else 0


def send_to(orthanc: Orthanc, files: Sequence[Path]) -> None:
    for file in files:
        orthanc.post("/instances", file.read_bytes())


def test_what_never_came_and_what_came_in_part_is_fetched(pair: tuple[Appliance, Orthanc], tmp_path: Path) -> None:
    appliance, orthanc = pair
    never, part = "2.25.19140314.1", "2.25.19140314.2"
    whole, torn = write_study(tmp_path / "never", never, 3), write_study(tmp_path / "part", part, 5)
    send_to(orthanc, [*whole, *torn])
    dcmsend(torn[:2], appliance.port)
    wait_for("the part", lambda: known(appliance, part) == 2, 30)
    expected = {never: "never came", part: "2 of 5 images came"}
    assert missed(appliance, "--dry-run") == expected
    assert known(appliance, never) == 0
    assert missed(appliance, "--modality", "CT", "--dry-run") == {}
    assert missed(appliance) == expected
    wait_for("both studies", lambda: (known(appliance, never), known(appliance, part)) == (3, 5), 30)
    assert missed(appliance) == {}
    assert appliance.final(never)["outcome"] == "unsuitable"  # it was routed, as if it had been forwarded


def test_a_source_that_does_not_say_where_it_answers_is_named(pair: tuple[Appliance, Orthanc]) -> None:
    ran = pair[0].run("catch-up", "SCANNER", "--since", DAY)
    assert ran.returncode == 3
    assert "sources.SCANNER has no host and port" in ran.stderr


@pytest.fixture
def unknown(tmp_path: Path) -> Iterator[tuple[Appliance, Orthanc]]:
    """An appliance, and a PACS that does not know where to send to it."""
    orthanc = Orthanc(tmp_path / "orthanc", free_port())
    appliance = Appliance(tmp_path / "curie", orthanc.port)
    orthanc.start()
    try:
        appliance.start()
        yield appliance, orthanc
        assert appliance.stop() == 0
    finally:
        if appliance.process and appliance.process.poll() is None:
            appliance.process.kill()
        orthanc.stop()


def test_a_pacs_that_does_not_know_us_as_a_destination_is_asked_by_c_get(
    unknown: tuple[Appliance, Orthanc], tmp_path: Path
) -> None:
    appliance, orthanc = unknown
    plain, packed = "2.25.19140315.1", "2.25.19140315.2"
    files = [
        *write_study(tmp_path / "plain", plain, 3, "implicit"),
        *write_study(tmp_path / "packed", packed, 2, "j2k"),
    ]
    send_to(orthanc, files)
    ran = appliance.run("catch-up", "ORTHANC", "--since", DAY, "--until", DAY, "--get")
    assert ran.returncode == 3
    assert 'add [[sources]] with ae_title = "CURIE" and hosts = ["127.0.0.1"]' in ran.stderr
    assert len(ran.stderr.splitlines()) == 1, ran.stderr

    appliance.stop()
    with open(appliance.file, "a") as settings:
        settings.write('[[sources]]\nae_title = "CURIE"\nhosts = ["127.0.0.1"]\n')
    appliance.start()
    told = appliance.json("catch-up", "ORTHANC", "--since", DAY, "--until", DAY, "--per-minute", "600", "--get")
    assert {one["study"]: one["answer"] for one in told["fetched"]} == {
        plain: "3 sent, 0 failed", packed: "2 sent, 0 failed",
    }  # fmt: skip
    wait_for("both studies", lambda: (known(appliance, plain), known(appliance, packed)) == (3, 2), 30)
    assert missed(appliance, "--get") == {}
    came = [dcmread(one) for one in (appliance.folder / "data" / "spool").rglob("*.dcm")]
    syntaxes = {(one.StudyInstanceUID, one.file_meta.TransferSyntaxUID) for one in came}
    assert syntaxes == {(plain, ImplicitVRLittleEndian), (packed, JPEG2000Lossless)}  # each as it is stored there

"""The line from spool to outcome with real rows, the real package and a real engine process; odd studies each
end with one clear sentence, and nothing is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from appliance.catalogue import Catalogue, jobs, overview, studies
from appliance.catalogue.connection import now
from appliance.settings import Settings, parse
from dicom_nodes.indexer import AssociationEnded, AssociationOpened, FileKept, Indexer
from dicom_nodes.spool import Spool
from dicom_nodes.volume_reader import read_volume
from models.measure import measure
from models.registry import ZOO, shipped
from tests import phantoms
from tests.phantoms import Phantom, part10, series
from workers import engine_process
from workers.celery_app import make_app
from workers.dispatch import Dispatch
from workers.engine_process import EngineProcess, Wanted
from workers.pipeline import computed_by, read_study
from workers.tasks import Worker

SETTINGS = """
[spool]
reserve_gb = 0
[completeness]
after_release_s = 0
quiet_s = 0
[worker]
backends = ["tensorrt", "openvino", "onnxruntime", "torch"]
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
[[routes]]
name = "brain"
package = "brain-structures"
destinations = ["pacs"]
"""
NO_BROKER = "redis+socket:///nonexistent/broker.sock"
HEAD = Phantom(slices=36, rows=72, columns=64, spacing=(4.0, 2.8, 2.8))
Change = Callable[[list[Dataset]], None]


class Line:
    """Indexer, dispatch and worker on one catalogue, driven by hand."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.spool = Spool(settings.spool_dir, 0)
        self.spool.prepare()
        self.dispatch = Dispatch(settings, catalogue, make_app(NO_BROKER))
        self.worker = Worker(settings, catalogue, "worker-1")
        self._sent = 0

    def receive(self, images: list[Dataset], syntax: str = "explicit", cut: int = 0) -> str:
        """Send images as `index` does, and let dispatch decide."""
        study = self.index(images, syntax, cut)
        self.dispatch.step()
        return study

    def index(self, images: list[Dataset], syntax: str = "explicit", cut: int = 0) -> str:
        """Send images on one association, by a new source; `cut` bytes are missing at the end of the first."""
        self._sent += 1
        indexer = Indexer(self.catalogue, self.spool)
        indexer.start()
        indexer.put(AssociationOpened(f"a{self._sent}", f"SCANNER{self._sent}", "127.0.0.1"))
        for n, ds in enumerate(images):
            content = part10(ds, syntax)
            kept = self.spool.keep(str(ds.SOPInstanceUID), content[: len(content) - cut] if n == 0 else content)
            indexer.put(FileKept(kept.path, f"a{self._sent}"))
        indexer.put(AssociationEnded(f"a{self._sent}", aborted=False))
        indexer.close()
        return str(images[0].StudyInstanceUID)

    def outcome(self, study: str) -> dict[str, Any]:
        with self.catalogue.read() as connection:
            told: dict[str, Any] = overview.explain(connection, study)
        (outcome,) = [one for one in told["outcomes"] if one["route"] == "brain"]
        return outcome  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """One engine process for all tests: loading takes longer than running."""
    worker = parse(SETTINGS, Path("curie.toml")).worker
    made = EngineProcess(worker, tmp_path_factory.mktemp("engine") / "handed-over")
    yield made
    made.kill()


@pytest.fixture
def line(catalogue: Catalogue, tmp_path: Path, engine: EngineProcess) -> Line:
    made = Line(parse(SETTINGS, tmp_path / "curie.toml"), catalogue)
    made.worker.engine = engine
    return made


def few(images: list[Dataset]) -> None:
    del images[1:]


def no_geometry(images: list[Dataset]) -> None:
    for ds in images:
        del ds.ImagePositionPatient


def two_patients(images: list[Dataset]) -> None:
    images[3].PatientID = "SOMEBODY ELSE"


def secondary_capture(images: list[Dataset]) -> None:
    for ds in images:
        ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize(
    ("change", "outcome", "words"),
    [
        (phantoms.missing_slice, "unsuitable", "1 slice is missing"),
        (phantoms.duplicate_position, "unsuitable", "one place"),
        (phantoms.mixed_orientation, "unsuitable", "turned against the others"),
        (phantoms.mixed_size, "unsuitable", "size"),
        (phantoms.nan_spacing, "unsuitable", "pacing"),
        (few, "unsuitable", "1 image"),
        (no_geometry, "unsuitable", "osition"),
        (secondary_capture, "unsuitable", "SOP class"),
        (two_patients, "failed", "2 patients"),
    ],
)
def test_odd_studies_end_with_a_sentence_and_no_job(line: Line, change: Change, outcome: str, words: str) -> None:
    found = line.outcome(line.receive(series(HEAD, change)))
    assert found["outcome"] == outcome
    assert words in found["reason"], found["reason"]
    assert "\n" not in found["reason"]
    assert line.worker.drain() == 0


def test_a_head_gets_seg_and_sr_once_and_the_same_bytes_when_made_again(line: Line) -> None:
    study = line.receive(series(HEAD))
    assert line.worker.drain() == 1
    found = line.outcome(study)
    assert found["state"] == "delivering", found
    assert {r["role"] for r in found["results"]} == {"SEG", "SR"}
    assert found["engine"] == "openvino f32"
    first = {r["role"]: r["sha256"] for r in found["results"]}
    assert made_again(line, found["job"]) == first


def made_again(line: Line, job: str) -> dict[str, str]:
    """Return the digests of the same job's results, made a second time from the same inputs."""
    package = line.worker.registry.package("brain-structures")
    with line.catalogue.read() as connection:
        at = overview.created_at(connection, job)
        (paths,) = jobs.input_paths(connection, job).values()
        patient_key = jobs.patient_of(connection, job)
    held = jobs.Claim(job, 2, "", "", package.id, package.version, package.digest, at, 1, None, [], 0)
    context = line.worker._context(held, package, [], [], patient_key)
    made = read_study(
        [[line.settings.spool_dir / path for path in paths]],
        package,
        lambda sequence: line.worker.engine.read(sequence, Wanted(package), lambda: None),
        lambda ran: computed_by(context, ran),
    )
    return {one.role: hashlib.sha256(one.content).hexdigest() for one in made.objects}


@pytest.mark.parametrize("syntax", ["j2k", "rle", "jls", "big", "implicit"])
def test_every_syntax_gives_the_same_volumes(line: Line, plain: dict[str, float], syntax: str) -> None:
    study = line.receive(series(HEAD), syntax)
    line.worker.drain()
    found = line.outcome(study)
    assert found["state"] == "delivering", found
    assert volumes(found) == plain


def volumes(outcome: dict[str, Any]) -> dict[str, float]:
    return {f["name"]: f["measurements"][0]["value"] for f in outcome["findings"]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, engine: EngineProcess) -> dict[str, float]:
    """The volumes of the head as it is found in Explicit VR Little Endian."""
    package = shipped(ZOO / "brain-structures")
    volume = read_volume(phantoms.write_series(tmp_path_factory.mktemp("plain"), series(HEAD)))
    findings = measure(engine.read([[volume]], Wanted(package), lambda: None).reading, [volume], package)
    return {f.name: round(f.measurements[0].value, 4) for f in findings}


def test_truncated_pixels_fail_with_the_reason_and_the_file_stays(line: Line) -> None:
    study = line.receive(series(HEAD), cut=1000)
    line.worker.drain()
    with line.catalogue.read() as connection:
        told = overview.explain(connection, study)
    states = told["instances_by_state"]
    outcome = told["outcomes"][0]
    assert outcome["outcome"] in ("failed", "unsuitable"), outcome
    assert outcome["reason"]
    assert sum(states.values()) >= HEAD.slices - 1
    assert len(list(line.spool.files())) == HEAD.slices


def test_absurdly_large_claims_are_refused_before_memory_is_taken(line: Line) -> None:
    def huge(images: list[Dataset]) -> None:
        for ds in images:
            ds.Rows = ds.Columns = 65535

    found = line.outcome(line.receive(series(HEAD, huge)))
    line.worker.drain()
    found = line.outcome(str(series(HEAD)[0].StudyInstanceUID))
    assert found["outcome"] in ("failed", "unsuitable"), found
    assert found["reason"]


@pytest.mark.parametrize("change", [phantoms.own_frame_of_reference, phantoms.leading_zero_uids, phantoms.monochrome1])
def test_odd_but_readable_studies_get_results(line: Line, change: Change) -> None:
    study = line.receive(series(HEAD, change))
    line.worker.drain()
    found = line.outcome(study)
    assert found["state"] == "delivering", found
    assert len(found["results"]) == 2


@pytest.mark.parametrize("name", ["polish", "chinese", "japanese"])  # the writers' own tests hold the others
def test_names_in_any_character_set_come_out_right(line: Line, name: str) -> None:
    images = [phantoms.with_character_set(ds, name) for ds in series(HEAD)]
    study = line.receive(images)
    line.worker.drain()
    found = line.outcome(study)
    assert found["state"] == "delivering", found
    for result in found["results"]:
        ds = dcmread(line.settings.results_dir / result["path"], stop_before_pixels=True)
        assert str(ds.PatientName) == phantoms.CHARACTER_SETS[name][2]
        assert ds.SpecificCharacterSet == "ISO_IR 192"


def test_a_late_slice_makes_a_new_result_that_names_the_old(line: Line) -> None:
    images = series(HEAD)
    study = line.receive(images[:-1])
    line.worker.drain()
    first = line.outcome(study)
    assert line.receive(images[-1:]) == study
    line.worker.drain()
    second = line.outcome(study)
    assert second["job"] != first["job"]
    report = next(r for r in second["results"] if r["role"] == "SR")
    text = (line.settings.results_dir / report["path"]).read_bytes()
    assert all(r["sop_instance_uid"].encode() in text for r in first["results"])
    assert dcmread(line.settings.results_dir / report["path"]).StudyInstanceUID == study
    with line.catalogue.read() as connection:
        assert overview.job_record(connection, first["job"])["state"] == "superseded"


def test_our_own_results_coming_back_open_nothing(line: Line) -> None:
    study = line.receive(series(HEAD))
    line.worker.drain()
    found = line.outcome(study)
    for result in found["results"]:
        line.receive([dcmread(line.settings.results_dir / result["path"])])
    with line.catalogue.read() as connection:
        assert studies.is_complete(connection, study)
        assert jobs.due_count(connection, now()) == 0
    assert line.outcome(study)["job"] == found["job"]


def test_a_hung_engine_is_killed_on_the_time_limit_and_the_job_fails_after_three(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = line.receive(series(HEAD))

    def hung(self: Any, number: int, limit_s: float, keep_going: Any) -> Any:
        raise engine_process.EngineDied("the package's time limit of 1 s is over; the engine was killed")

    monkeypatch.setattr(engine_process.EngineProcess, "_answer", hung)
    monkeypatch.setattr("workers.tasks.RETRY_S", 0.0)
    monkeypatch.setattr(line.worker, "warm", lambda: None)  # would start the next child
    assert line.worker.drain() == jobs.MAX_ERRORS
    found = line.outcome(study)
    assert found["outcome"] == "failed"
    assert "time limit" in found["reason"]
    assert line.worker.engine.pid is None, "the hung child was killed"


def test_images_gone_from_the_spool_are_said(line: Line) -> None:
    study = line.receive(series(HEAD))
    line.spool.remove(next(iter(line.spool.files())))
    line.worker.drain()
    found = line.outcome(study)
    assert found["outcome"] == "failed"
    assert "1 of 36 images are no longer in the spool" in found["reason"]


def test_retention_removes_old_files_and_keeps_records(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    study = line.receive(series(HEAD, phantoms.missing_slice))
    line.dispatch._remove_before(timedelta(days=1))
    assert len(list(line.spool.files())) == HEAD.slices - 1
    line.dispatch._remove_before(timedelta(seconds=-1))
    assert list(line.spool.files()) == []
    assert line.outcome(study)["outcome"] == "unsuitable"

"""A shadow runs and nothing of it leaves; a promoted version reads the next study; no study is read twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select, update

from appliance.catalogue import Catalogue, comparisons, outbox, packages
from appliance.catalogue.connection import now
from appliance.catalogue.tables import job, package_change
from appliance.catalogue.tables import outbox as outbox_table
from appliance.cli.replay import replayed
from appliance.package_life import Change
from appliance.settings import parse
from models.comparison import summary
from models.gate import inspect
from models.package import sign_package
from models.registry import ZOO
from models.signing import make_key, read_private_key, site_key
from tests.phantoms import series
from tests.workers.test_line import HEAD, SETTINGS, Line
from workers.engine_process import EngineProcess


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    made = EngineProcess(parse(SETTINGS, Path("curie.toml")).worker, tmp_path_factory.mktemp("engine") / "over")
    yield made
    made.kill()


@pytest.fixture
def line(catalogue: Catalogue, tmp_path: Path, engine: EngineProcess) -> Line:
    made = Line(parse(SETTINGS, tmp_path / "curie.toml"), catalogue)
    made.worker.engine = engine
    return made


@pytest.fixture
def newer(line: Line, tmp_path: Path) -> str:
    """Version 9.0.0 of the shipped package, a candidate here."""
    folder = Path(shutil.copytree(ZOO / "brain-structures", tmp_path / "made"))
    declared = json.loads((folder / "package.json").read_text()) | {"version": "9.0.0"}
    (folder / "package.json").write_text(json.dumps(declared))
    make_key(site_key(line.settings.data_dir))
    sign_package(folder, read_private_key(site_key(line.settings.data_dir)))
    row, _ = line.worker.registry.install(folder, inspect)
    with line.catalogue.write() as connection:
        packages.set_state(connection, row, "candidate", now())
    return row.name


def promote(line: Line, name: str) -> None:
    with line.catalogue.write() as connection:
        row = packages.version(connection, *name.split("@"))
        assert row is not None
        change = Change(row.package, "promote", "", row.version, "A", "B", now(), "", now())
        packages.make_active(connection, row, change, now())


def shadow(line: Line, name: str) -> None:
    with line.catalogue.write() as connection:
        row = packages.version(connection, *name.split("@"))
        assert row is not None
        packages.set_state(connection, row, "shadow", now())


def localizer() -> list[Dataset]:
    """An image that comes later, in a series of its own."""
    other = series(HEAD)[:1]
    for ds in other:
        ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.3.88", "1.2.3.88.1"
    return other


def versions_run(line: Line) -> list[tuple[str, str, int]]:
    with line.catalogue.read() as connection:
        rows = connection.execute(select(job.c.package_version, job.c.state, job.c.shadow).order_by(job.c.created_at))
        return [tuple(row) for row in rows]  # type: ignore[misc]


def test_a_shadow_runs_after_the_active_version_and_nothing_of_it_leaves(line: Line, newer: str) -> None:
    shadow(line, newer)
    study = line.receive(series(HEAD))
    assert line.worker.drain() == 2
    shipped = line.worker.registry.row("brain-structures").version
    assert versions_run(line) == [(shipped, "delivering", 0), ("9.0.0", "completed", 1)]
    found = line.outcome(study)
    assert found["version"] == shipped
    ours = {result["sop_instance_uid"] for result in found["results"]}
    with line.catalogue.read() as connection:
        assert {one.sop_instance_uid for one in outbox.due(connection, now())} == ours
        compared = comparisons.between(connection, "brain-structures", shipped, "9.0.0")
    told = summary(compared)
    assert told["studies"] == 1
    assert told["flips"] == 0
    assert {one["dice"] for one in told["findings"].values()} == {1.0}
    assert compared[0]["scanner"]


def test_a_promoted_version_reads_the_next_study_and_each_result_names_its_version(line: Line, newer: str) -> None:
    first = line.receive(series(HEAD))
    promote(line, newer)
    line.worker.drain()
    second = line.receive(series(HEAD, lambda images: [setattr(ds, "StudyInstanceUID", "1.2.3.77") for ds in images]))
    line.worker.drain()
    assert line.outcome(first)["version"] != "9.0.0"
    assert line.outcome(second)["version"] == "9.0.0"
    assert {line.outcome(one)["state"] for one in (first, second)} == {"delivering"}


def test_an_unchanged_study_is_not_read_once_more_by_a_promoted_version(line: Line, newer: str) -> None:
    images = series(HEAD)
    study = line.receive(images)
    line.worker.drain()
    before = line.outcome(study)
    promote(line, newer)
    line.receive(localizer())  # the study is routed again
    assert line.worker.drain() == 0
    after = line.outcome(study)
    assert after["job"] == before["job"]
    assert after["version"] == before["version"] != "9.0.0"


def test_without_an_active_version_the_study_says_so(line: Line) -> None:
    with line.catalogue.write() as connection:
        row = packages.active(connection, "brain-structures")
        assert row is not None
        packages.set_state(connection, row, "retired", now())
    found = line.outcome(line.receive(series(HEAD)))
    assert found["outcome"] == "failed"
    assert "no version of brain-structures is active" in found["reason"]


def test_a_second_version_can_never_be_active_beside_the_first(line: Line, newer: str) -> None:
    from sqlalchemy.exc import IntegrityError

    from appliance.catalogue.tables import package_version

    with pytest.raises(IntegrityError), line.catalogue.write() as connection:
        connection.execute(package_version.update().values(state="active"))
    with line.catalogue.read() as connection:
        assert len(packages.in_state(connection, "brain-structures", "active")) == 1
        assert connection.execute(select(package_change)).all()


def compared_by(line: Line) -> int:
    with line.catalogue.read() as connection:
        shipped = packages.active(connection, "brain-structures")
        assert shipped is not None
        return len(comparisons.between(connection, "brain-structures", shipped.version, "9.0.0"))


def test_a_past_study_is_replayed_once_and_nothing_of_it_leaves(
    line: Line, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = line.receive(series(HEAD))
    line.worker.drain()
    before = line.outcome(study)
    first = replayed(line.worker.registry, study, newer)
    assert first["outcome"] == "queued"
    compare = line.worker._compare
    monkeypatch.setattr(line.worker, "_compare", lambda job: None)  # as if the worker died before
    assert line.worker.drain() == 1
    monkeypatch.setattr(line.worker, "_compare", compare)
    assert compared_by(line) == 0
    line.worker.compare_left()
    assert compared_by(line) == 1
    assert versions_run(line)[-1] == ("9.0.0", "completed", 1)
    assert line.outcome(study) == before
    assert replayed(line.worker.registry, study, newer)["outcome"] == "read by this version already"


def test_a_replay_before_the_routes_have_decided_is_refused(line: Line, newer: str) -> None:
    study = line.index(series(HEAD))
    told = replayed(line.worker.registry, study, newer)
    assert told["outcome"] == "refused"
    assert "routes have not decided yet" in told["reason"]
    line.dispatch.step()
    assert replayed(line.worker.registry, study, newer)["outcome"] == "queued"
    assert replayed(line.worker.registry, study, newer)["outcome"] == "queued already"


def test_a_version_promoted_out_of_shadow_sends_what_it_read(line: Line, newer: str) -> None:
    shadow(line, newer)
    study = line.receive(series(HEAD))
    with line.catalogue.write() as connection:
        connection.execute(update(job).where(job.c.shadow == 0).values(state="failed", reason="the engine broke"))
    assert line.worker.drain() == 1
    promote(line, newer)
    line.receive(localizer())
    assert line.worker.drain() == 0
    found = line.outcome(study)
    assert (found["version"], found["state"]) == ("9.0.0", "delivering")
    assert {one["state"] for one in found["results"]} == {"waiting"}


def test_a_failed_replay_is_queued_again(line: Line, newer: str) -> None:
    study = line.receive(series(HEAD))
    first = replayed(line.worker.registry, study, newer)
    with line.catalogue.write() as connection:
        connection.execute(update(job).where(job.c.shadow == 1).values(state="failed", reason="the engine broke"))
        connection.execute(update(job).where(job.c.shadow == 0).values(state="failed", reason="the engine broke"))
    told = replayed(line.worker.registry, study, newer)
    assert (told["outcome"], told["job"]) == ("queued again", first["job"])
    live = replayed(line.worker.registry, study, "brain-structures")
    assert live["outcome"] == "failed"
    assert "curie jobs retry" in live["reason"]


def test_a_replay_on_a_study_that_does_not_fit_says_why(line: Line, newer: str) -> None:
    study = line.receive(series(HEAD)[:3])
    told = replayed(line.worker.registry, study, newer)
    assert (told["outcome"], told["job"]) == ("unsuitable", "")
    assert "3 images" in told["reason"]


def test_a_changed_package_replayed_to_be_sent_replaces_what_was_and_an_unchanged_one_sends_the_same_bytes(
    line: Line, newer: str
) -> None:
    study = line.receive(series(HEAD))
    line.worker.drain()
    first = line.outcome(study)
    with line.catalogue.write() as connection:
        connection.execute(update(outbox_table).values(state="delivered"))
    again = replayed(line.worker.registry, study, "brain-structures", line.settings)
    assert again["outcome"] == "stored results are sent again"
    assert {one["state"] for one in line.outcome(study)["results"]} == {"waiting"}
    assert line.worker.drain() == 0
    told = replayed(line.worker.registry, study, newer, line.settings)
    assert told["outcome"] == "queued, to be sent"
    assert line.worker.drain() == 1
    second = line.outcome(study)
    assert (second["version"], second["outcome"]) == ("9.0.0", "pending")
    (report,) = (one for one in second["results"] if one["role"] == "SR")
    ds = dcmread(line.settings.results_dir / report["path"])
    before = ds.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert before.ReferencedSOPInstanceUID in {one["sop_instance_uid"] for one in first["results"]}
    with line.catalogue.read() as connection:
        assert {one.sop_instance_uid for one in outbox.due(connection, now())} == {
            one["sop_instance_uid"] for one in second["results"]
        }

"""What the worker makes of what its engine process says, or no longer says; the child's part is played by a script."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.errors import EngineUnavailable, Missing, StudyUnsuitable
from appliance.settings import parse
from appliance.volume import Volume
from models.package import Package
from models.reading import Reading
from models.registry import ZOO
from models.registry import shipped as signed
from tests.models.conftest import volume_of
from workers import engine_process
from workers.engine_process import EngineDied, EngineProcess, Wanted

LOADED = {"engine": "torch", "precision": "f32", "skipped": [], "parity": [], "memory_mb": 1.0}
READ = {
    **LOADED, "broken": False, "label_maps": 0, "scores": [], "probabilities": [], "numbers": [], "located": [],
    "regions": [], "mapped": False, "cpu_s": 1.0,
}  # fmt: skip
BEGAN = {"began": True}
Answer = Callable[[dict[str, Any]], list[dict[str, Any] | float | None]]


@pytest.fixture
def shipped() -> Package:
    return signed(ZOO / "brain-structures")


@pytest.fixture
def head() -> Volume:
    return volume_of(np.zeros((4, 4, 4), np.float32), np.eye(4))


class Child:
    """Answers as the script says: an answer, a number of seconds to wait, or None to die."""

    exitcode = -11
    pid = 1

    def __init__(self, pipe: Any, script: Answer) -> None:
        self.pipe, self.script = pipe, script
        self.alive = True
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            while self.alive:
                request = json.loads(self.pipe.recv_bytes())
                for answer in self.script(request):
                    if answer is None:
                        return self._die()
                    if isinstance(answer, float):
                        time.sleep(answer)
                        continue
                    self.pipe.send_bytes(json.dumps({"number": request["number"], **answer}).encode())
        except (EOFError, OSError):
            self._die()

    def _die(self) -> None:
        self.alive = False
        self.pipe.close()

    def is_alive(self) -> bool:
        return self.alive

    def kill(self) -> None:
        self.alive = False

    def join(self, timeout: float) -> None:
        pass


class Played(EngineProcess):
    """An engine process whose child is a script."""

    def __init__(self, folder: Path, script: Answer) -> None:
        super().__init__(parse("", folder / "curie.toml").worker, folder / "over")
        self.script = script
        self.started = 0

    def start(self) -> None:
        if self._child is not None and self._child.is_alive():
            return
        self.kill()
        self._pipe, far_end = multiprocessing.Pipe()
        self._child = Child(far_end, self.script)
        self.started += 1


def reads(*answers: dict[str, Any] | float | None) -> Answer:
    """Return a script that loads at once and reads so."""
    return lambda request: [LOADED] if request["op"] == "load" else list(answers)


def read(engine: EngineProcess, package: Package, head: Volume) -> Any:
    return engine.read([[head]], Wanted(package), lambda: None)


def in_a_moment(package: Package, timeout_s: float) -> Package:
    """Return the package with a time limit."""
    limits = package.manifest.resources.model_copy(update={"timeout_s": timeout_s})
    return replace(package, manifest=package.manifest.model_copy(update={"resources": limits}))


def test_the_time_limit_begins_when_the_package_is_loaded(tmp_path: Path, shipped: Package, head: Volume) -> None:
    engine = Played(tmp_path, reads(1.0, BEGAN, READ))
    assert read(engine, in_a_moment(shipped, 0.3), head).engine == "torch"
    late = Played(tmp_path, reads(BEGAN, 2.0, READ))
    with pytest.raises(EngineDied, match=r"time limit of 0\.3 s"):
        read(late, in_a_moment(shipped, 0.3), head)
    assert late.pid is None


def test_what_other_packages_take_to_load_is_not_the_jobs_time(tmp_path: Path, shipped: Package, head: Volume) -> None:
    def script(request: dict[str, Any]) -> list[dict[str, Any] | float | None]:
        return [1.0, LOADED] if request["op"] == "load" else [BEGAN, READ]

    engine = Played(tmp_path, script)
    engine.warm(Wanted(signed(ZOO / "cardiac-lv")))
    assert read(engine, in_a_moment(shipped, 0.3), head).engine == "torch"
    assert [one["engine"] for one in engine.loaded()] == ["torch"]


def test_a_load_without_end_is_ended_and_not_asked_for_again(
    tmp_path: Path, shipped: Package, head: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "BUILD_LIMIT_S", 0.3)
    other = signed(ZOO / "cardiac-lv")
    engine = Played(tmp_path, lambda request: [5.0])
    engine.warm(Wanted(other))
    with pytest.raises(EngineDied, match="was not loaded within"):
        read(engine, shipped, head)
    assert engine.pid is None
    assert engine.knows(other.digest)
    assert not engine.knows(shipped.digest)


@pytest.mark.parametrize(
    ("error", "kind", "restarts"),
    [
        ("EngineUnavailable", EngineUnavailable, True),
        ("RuntimeError", EngineDied, True),
        ("StudyUnsuitable", StudyUnsuitable, False),
        ("Missing", Missing, False),
    ],
)
def test_a_child_that_broke_makes_room_for_a_new_one(
    tmp_path: Path, shipped: Package, head: Volume, error: str, kind: type[Exception], *, restarts: bool
) -> None:
    engine = Played(tmp_path, reads(BEGAN, {"error": error, "message": "it broke"}))
    with pytest.raises(kind, match=r"broke"):
        read(engine, shipped, head)
    assert (engine.pid is None) == restarts


def test_a_child_whose_gpu_broke_answers_and_makes_room_for_a_new_one(
    tmp_path: Path, shipped: Package, head: Volume
) -> None:
    engine = Played(tmp_path, reads(BEGAN, {**READ, "broken": True}))
    assert read(engine, shipped, head).engine == "torch"
    assert engine.pid is None
    read(engine, shipped, head)
    assert engine.started == 2


def test_a_new_child_is_asked_to_load_everything_but_what_ended_the_last(
    tmp_path: Path, shipped: Package, head: Volume
) -> None:
    deadly = signed(ZOO / "cardiac-lv")

    def script(request: dict[str, Any]) -> list[dict[str, Any] | float | None]:
        return [None] if request["digest"] == deadly.digest else [LOADED]

    engine = Played(tmp_path, script)
    engine.warm(Wanted(shipped))
    engine.warm(Wanted(deadly))
    engine._child.thread.join(5)
    assert not engine.knows(shipped.digest), "the child is dead"
    engine.warm(Wanted(shipped))
    assert (engine.knows(shipped.digest), engine.knows(deadly.digest)) == (True, True)
    said = {one["digest"]: one.get("error", "") for one in engine.loaded()}
    assert said[deadly.digest] == "EngineDied"
    engine.kill()
    assert not engine.knows(shipped.digest)


def test_the_child_loads_before_it_says_that_it_began(tmp_path: Path, shipped: Package, head: Volume) -> None:
    heard: list[str] = []

    class Shelf:
        broken = False

        def prepare(self, *given: object) -> None:
            heard.append("loaded")

        def read(self, *given: object, mapped: bool) -> Any:
            heard.append("read")
            raise StudyUnsuitable("enough")

    np.save(tmp_path / "voxels-0-0.npy", head.voxels)
    one = {"affine": head.affine.tolist(), "modality": "MR", "time_ms": None}
    request = {**Wanted(shipped).record(), "folder": str(tmp_path), "moments": [[one]]}
    with pytest.raises(StudyUnsuitable):
        engine_process._read(Shelf(), request, lambda answer: heard.append(next(iter(answer))))
    assert heard == ["loaded", "began", "read"]


def test_a_probability_map_comes_back_where_it_was_asked_for(tmp_path: Path, shipped: Package, head: Volume) -> None:
    class Record:
        def record(self) -> dict[str, Any]:
            return dict(LOADED)

    class Shelf:
        broken = False

        def prepare(self, *given: object) -> None:
            pass

        def read(self, *given: object, mapped: bool) -> Any:
            return Reading((probable,), probability=probable if mapped else None), Record()

    probable = np.full((4, 4, 4), 77, np.uint8)
    np.save(tmp_path / "voxels-0-0.npy", head.voxels)
    one = {"affine": head.affine.tolist(), "modality": "MR", "time_ms": None}
    engine = EngineProcess(parse("", tmp_path / "curie.toml").worker, tmp_path)
    for mapped in (True, False):
        request = {**Wanted(shipped, mapped=mapped).record(), "folder": str(tmp_path), "moments": [[one]]}
        answer = engine_process._read(Shelf(), request, lambda _: None)
        found = engine._inferred(json.loads(json.dumps(answer))).reading.probability
        assert (found is not None) == mapped
        assert found is None or np.array_equal(found, probable)


FREED = """
import psutil
from workers.engine_process import give_back_memory
held = [bytes(2000) for _ in range(50_000)]
kept = held[-1]  # above all others, so that the C library keeps what lies below
del held
before = psutil.Process().memory_info().rss
give_back_memory()
print(before - psutil.Process().memory_info().rss)
"""


def test_what_a_run_freed_goes_back_to_the_system() -> None:
    ran = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 50e6

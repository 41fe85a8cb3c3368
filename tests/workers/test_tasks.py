"""What keeps two workers' voxels apart, and what a failure may say."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from workers.tasks import Worker, own_folder, run_worker, where


def test_two_workers_never_share_the_folder_of_their_voxels(tmp_path: Path) -> None:
    first, second = own_folder(tmp_path), own_folder(tmp_path)
    assert first != second
    assert {first.parent, second.parent} == {tmp_path}


def test_folders_of_workers_that_died_are_removed_and_others_are_not(tmp_path: Path) -> None:
    gone = tmp_path / f"{socket.gethostname()}.abc.999999999"
    alive = tmp_path / f"{socket.gethostname()}.abc.{os.getpid()}"
    elsewhere = tmp_path / "another-host.abc.999999999"
    like_ours = tmp_path / f"{socket.gethostname()}.ward.abc.999999999"
    for folder in (gone, alive, elsewhere, like_ours):
        folder.mkdir()
        (folder / "voxels.npy").write_bytes(b"x")
    own_folder(tmp_path)
    assert [folder.exists() for folder in (gone, alive, elsewhere, like_ours)] == [False, True, True, True]


def test_an_unexpected_error_is_named_by_its_place_not_by_its_text() -> None:
    with pytest.raises(ValueError, match="Doe") as broken:
        int("Doe^Jane")
    place = where(broken.value)
    assert place.startswith("test_tasks.py:")
    assert "Doe" not in place


def test_a_catalogue_that_is_away_is_logged_by_its_kind_and_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    class Away(Worker):
        def __init__(self) -> None:
            self._drained_at = 0.0

        def drain(self) -> int:
            raise OperationalError("SELECT ?", ("1.2.3",), Exception("connection refused"))

    worker = Away()
    worker.drain_safely()
    assert worker._drained_at > 0.0
    assert "1.2.3" not in capsys.readouterr().out


class Listening:
    """A worker of which only the order of things is known."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.engine = self

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.did.append(name)


def test_the_engine_process_is_spoken_to_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Listening()
    monkeypatch.setattr("workers.tasks.threading.Thread.start", lambda thread: thread._target())
    monkeypatch.setattr("workers.tasks.signal.signal", lambda number, what: None)
    rung: list[Callable[[], None]] = []

    class App:
        def task(self, name: str) -> Callable[[Callable[[], None]], None]:
            return rung.append

        def Worker(self, **settings: object) -> App:
            return self

        def start(self) -> None:
            worker.did.append("celery")
            rung[0]()

    run_worker(App(), worker)  # type: ignore[arg-type]
    assert worker.did == ["warm", "compare_left", "timer", "celery", "drain_safely", "stop", "kill"]

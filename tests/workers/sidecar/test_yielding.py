from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import psutil

from workers.sidecar.yielding import Yielding

WORKER = """
import sys, pathlib, time
for line in sys.stdin:
    folder = pathlib.Path(line.strip())
    for n in range(int((folder / "count").read_text())):
        (folder / "ticks").open("a").write(f"{time.time()}\\n")
        time.sleep(0.05)
    print("noise")
    print("done", flush=True)
"""


def yielding(busy: threading.Event, longest_s: float = 30) -> Yielding:
    return Yielding([sys.executable, "-c", WORKER], busy.is_set, longest_s)


def task(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "count").write_text(str(count))
    return folder


def ticks(folder: Path) -> list[float]:
    path = folder / "ticks"
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_it_stops_within_a_second_of_clinical_work_and_goes_on_afterwards(tmp_path: Path) -> None:
    busy, folder = threading.Event(), task(tmp_path, 60)
    helper = yielding(busy)
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(helper.do(folder, lambda: False)))
    thread.start()
    while len(ticks(folder)) < 5:
        time.sleep(0.05)
    at = time.time()
    busy.set()
    time.sleep(2.0)
    assert max(ticks(folder)) - at < 1.0
    before = len(ticks(folder))
    assert helper.process is not None
    assert psutil.Process(helper.process.pid).status() == psutil.STATUS_STOPPED
    busy.clear()
    thread.join(timeout=20)
    assert done == [True]
    assert len(ticks(folder)) == 60 > before
    helper.end()


def test_one_program_does_several_tasks(tmp_path: Path) -> None:
    helper = yielding(threading.Event())
    assert helper.do(task(tmp_path / "a", 1), lambda: False)
    first = helper.process
    assert helper.do(task(tmp_path / "b", 1), lambda: False)
    assert helper.process is first
    helper.end()
    assert helper.process is None


def test_it_ends_when_time_is_up_or_nobody_waits_or_it_died(tmp_path: Path) -> None:
    slow = yielding(threading.Event(), longest_s=0.5)
    assert not slow.do(task(tmp_path / "a", 1000), lambda: False)
    assert slow.process is None
    assert not slow.do(task(tmp_path / "b", 1000), lambda: True)
    dead = Yielding([sys.executable, "-c", "raise SystemExit(3)"], lambda: False, 30)
    assert not dead.do(task(tmp_path / "c", 1), lambda: False)
    assert dead.process is None

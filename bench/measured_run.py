"""One run: a fresh receiver, a sender, CPU and memory around them, and every stored dataset compared.

The clock runs while instances are sent; starting, preparing, os.sync() and comparing stand outside it. It must never
return a row for a run in which a dataset was lost or changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import curie_receiver, processes, stored
from bench.datasets import Instance, instances, write_part10
from bench.fsync_loop import make_durable
from bench.pdus import Broken
from bench.receivers import SUBJECTS, Running, Subject, dcmtk_environment
from bench.replayer import Place

SETTLE_S = 0.3  # after the release, until the receiver's processes have ended or rest
SEND_S = 300

Row = dict[str, Any]
Send = Callable[[], Row]


@dataclass(frozen=True)
class Case:
    """What is sent, over how many associations, by which sender, and how many instances to whom."""

    name: str
    kind: str
    counts: dict[str, int]  # by subject
    connections: int = 1
    sender: str = "replayer"  # or storescu, with TCP_NODELAY=1 or without


def one_run(subject: str, case: Case, run: int, folder: Path) -> Row:
    """Return the row of one run. Raises Broken when anything was not acknowledged, lost or changed."""
    sent = instances(case.kind, str(run), case.counts[subject])
    if subject == "fsync loop":
        os.sync()
        measured = {"count": len(sent), "bytes": _bytes(sent), "wall_s": round(make_durable(folder / "disk", sent), 4)}
    else:
        measured = _received(SUBJECTS[subject], case, run, sent, folder)
    wall = measured["wall_s"]
    rates = {"instances_s": round(len(sent) / wall, 1), "mb_s": round(measured["bytes"] / wall / 1e6, 1)}
    load = {"load": round(os.getloadavg()[0], 2)}
    return {"subject": subject, "case": case.name, "run": run, "k": case.connections, **rates, **measured, **load}


def _bytes(sent: Sequence[Instance]) -> int:
    return sum(one.size for one in sent)


def _received(subject: Subject, case: Case, run: int, sent: Sequence[Instance], folder: Path) -> Row:
    with Running(subject, folder / "receiver") as running:
        with _sender(case, run, sent, running.place, folder / "sent") as send:
            os.sync()
            before = processes.cpu_seconds(running.pid)
            measured = send()
        time.sleep(SETTLE_S)
        row = measured | _cost(running, before, len(sent), measured["bytes"])
        if subject.stored:
            found = stored.compare(running.stored(), sent)
            if not found.is_perfect:
                raise Broken(f"of {len(sent)} datasets {found}")
        return row


def _cost(running: Running, before: dict[int, float], count: int, size: int) -> Row:
    """Return CPU and memory; for curie those of the acknowledging path, and the indexer's beside them."""
    after, indexed_s, indexer = processes.cpu_seconds(running.pid), None, None
    if running.subject.name == "curie":
        indexed_s = round(SETTLE_S + curie_receiver.wait_until_indexed(running.folder, count), 2)
        indexer = curie_receiver.indexer_pid(running.folder)
        if indexer is None:  # one process: what it does after the answer is its too
            after = processes.cpu_seconds(running.pid)
    cpu = processes.spent(before, after, (set(before) | set(after)) - {indexer})
    row: Row = {"cpu_s": round(cpu, 4), "cpu_s_per_gb": round(cpu / size * 1e9, 4), **_memory(running, indexer)}
    if indexed_s is None:
        return row
    whole = cpu
    if indexer is not None:
        whole += processes.spent(before, processes.cpu_seconds(running.pid), [indexer])
        row["indexer_cpu_s"] = round(whole - cpu, 4)
    indexing = {"cpu_with_indexing_s_per_gb": round(whole / size * 1e9, 4), "indexed_after_s": indexed_s}
    return row | indexing


def _memory(running: Running, indexer: int | None) -> Row:
    """Return the highest peak of a process, and by how much those that acknowledge grew, all together."""
    peaks, start = processes.peak_mb(running.pid), running.resident_mb
    grown = {pid: max(0.0, peak - start.get(pid, start[running.pid])) for pid, peak in peaks.items()}
    row = {"peak_rss_mb": round(max(peaks.values()), 1)}
    row["rss_growth_mb"] = round(sum(mb for pid, mb in grown.items() if pid != indexer), 2)
    if indexer is not None:
        row["indexer_rss_growth_mb"] = round(grown.get(indexer, 0.0), 1)
    return row


@contextmanager
def _sender(case: Case, run: int, sent: Sequence[Instance], place: Place, folder: Path) -> Iterator[Send]:
    """Yield what starts the sending and returns its report; everything is prepared by then."""
    if case.sender == "replayer":
        with _replayer(case, run, len(sent), place) as send:
            yield send
        return
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}.dcm" for number in range(len(sent))]
    for file, one in zip(files, sent, strict=True):
        write_part10(one, file)
    yield lambda: _storescu(case, files, _bytes(sent), place)
    for file in files:
        file.unlink()


def _storescu(case: Case, files: Sequence[Path], size: int, place: Place) -> Row:
    command = ["storescu", "-aet", place.calling, "-aec", place.called, place.host, str(place.port)]
    environment = dcmtk_environment(nodelay="TCP_NODELAY=1" in case.sender)
    started = time.perf_counter()
    ran = subprocess.run([*command, *map(str, files)], env=environment, capture_output=True, timeout=SEND_S)
    wall = time.perf_counter() - started
    if ran.returncode != 0:
        raise Broken(f"storescu into {place.called}: {ran.stderr.decode()[-500:]}")
    return {"count": len(files), "bytes": size, "wall_s": round(wall, 4)}


@contextmanager
def _replayer(case: Case, run: int, count: int, place: Place) -> Iterator[Send]:
    command = [sys.executable, "-m", "bench.replayer", "--port", str(place.port), "--called", place.called]
    what = ["--kind", case.kind, "--run", str(run), "--count", str(count), "--connections", str(case.connections)]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, *what], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as sender:
        assert sender.stdout is not None
        try:
            sender.stdout.readline()
            yield lambda: _report(sender, place)
        finally:
            sender.kill()


def _report(sender: subprocess.Popen[str], place: Place) -> Row:
    try:
        out, complaint = sender.communicate("go\n", timeout=SEND_S)
    except subprocess.TimeoutExpired:
        raise Broken(f"sending to {place.called} took more than {SEND_S} s") from None
    if sender.returncode != 0:
        raise Broken(complaint.strip()[-500:])
    report: Row = json.loads(out)
    return report

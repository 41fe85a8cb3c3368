"""Last instance acknowledged → results acknowledged by the PACS, over ten studies of one head, split by step.

CPU seconds are those of all our processes but the engine's child, in the time from the last acknowledgement to the
results' own, less what the same processes use while nothing happens. The study is the shared 192-slice head where it
is present, else the 189-slice sample.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from pydicom import dcmread

from appliance.cli.demo import demo_house, small_pacs, write_settings
from appliance.errors import Missing
from appliance.job import derived_uid
from bench.record import Record
from dicom_nodes import sender
from dicom_nodes.sample import write_sample

STUDIES = 10
IDLE_S = 15.0
STEPS = ("complete_s", "wait_s", "volume_s", "inference_s", "findings_s", "results_s", "delivery_s", "total_s")


class HouseCpu:
    """CPU seconds of this process's children and theirs, apart from engine processes."""

    def __init__(self) -> None:
        self._ours = psutil.Process()

    def seconds(self) -> float:
        """Return user + system seconds so far, of all but engines and the PACS."""
        total = 0.0
        for process in self._ours.children(recursive=True):
            try:
                command = " ".join(process.cmdline())
                if "spawn_main" in command or "demo_pacs" in command or "resource_tracker" in command:
                    continue
                times = process.cpu_times()
                total += times.user + times.system
            except psutil.Error:
                continue
        return total


def head(folder: Path) -> list[Path]:
    """Return the files of the head to send."""
    shared = Path(os.environ.get("CURIE_SHARED", "../shared")) / "data" / "unpack"
    if not shared.exists():
        return write_sample(folder)
    name = "mr_brain_t1_siemens_skyra_sag"
    subprocess.run([shared, folder, name], check=True, stdout=subprocess.DEVNULL)
    return sorted((folder / name).glob("*.dcm"))


def as_new_study(files: Sequence[Path], folder: Path, run: int) -> list[Path]:
    """Write copies of the files as a study of their own."""
    folder.mkdir(parents=True)
    copies = []
    for n, file in enumerate(files):
        ds = dcmread(file)
        ds.StudyInstanceUID = derived_uid("bench", run)
        ds.SeriesInstanceUID = derived_uid("bench", run, "series")
        ds.SOPInstanceUID = derived_uid("bench", run, "instance", n)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(folder / f"{n}.dcm")
        copies.append(folder / f"{n}.dcm")
    return copies


def send(files: Sequence[Path], settings: Any) -> None:
    """Send a study with DCMTK where it is installed, else with our own sender."""
    tool = ["dcmsend", "-aet", "SCANNER", "-aec", "CURIE", "127.0.0.1", str(settings.receiver.port)]
    try:
        subprocess.run([*tool, *map(str, files)], check=True, env={**os.environ, "TCP_NODELAY": "1"})
    except FileNotFoundError:
        place = sender.Destination(name="c", ae_title="CURIE", host="127.0.0.1", port=settings.receiver.port)
        with sender.associate(place, "SCANNER", sender.series_contexts(files)) as association:
            for file in files:
                sender.store_as_is(association, file)


def outcome(settings: Any, study: str) -> dict[str, Any]:
    """Return the outcome of a study once its results are in the PACS and committed."""
    from appliance.catalogue import open_catalogue, overview

    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        while True:
            with catalogue.read() as connection:
                found = overview.explain(connection, study)["outcomes"] if _known(connection, study) else []
            if found and found[0]["outcome"] != "pending":
                return found[0]  # type: ignore[no-any-return]
            time.sleep(0.5)
    finally:
        catalogue.close()


def _known(connection: Any, study: str) -> bool:
    from appliance.catalogue import overview

    try:
        overview.find_study(connection, study)
    except Missing:
        return False
    return True


@contextmanager
def house(folder: Path) -> Iterator[Any]:
    """Run the appliance and the small PACS."""
    with ExitStack() as stack:
        settings, file = write_settings(folder / "appliance")
        stack.enter_context(small_pacs(folder / "pacs", settings))
        stack.enter_context(demo_house(settings, file, folder / "appliance"))
        yield settings


def one_run(files: Sequence[Path], settings: Any, cpu: HouseCpu, idle_rate: float, run: int) -> dict[str, Any]:
    """Send one study and return its row."""
    started, before = time.monotonic(), cpu.seconds()
    send(files, settings)
    received, mid = time.monotonic(), cpu.seconds()
    found = outcome(settings, derived_uid("bench", run))
    ended, after = time.monotonic(), cpu.seconds()
    assert found["outcome"] == "completed", found["reason"]
    timings = found["timings"]
    overhead = after - mid - idle_rate * (ended - received)
    return {
        "subject": "curie",
        "case": f"{len(files)} slices",
        "run": run,
        **{step: timings[step] for step in STEPS},
        "inference_cpu_s": timings["inference_cpu_s"],
        "receive_s": round(received - started, 3),
        "receive_cpu_s": round(mid - before, 3),
        "cpu_s_with_idle": round(after - mid, 3),
        "overhead_cpu_s": round(overhead, 3),
    }


def main() -> None:
    """Run the benchmark."""
    record = Record("turnaround", ("pydicom", "pynetdicom", "highdicom", "openvino", "celery", "sqlalchemy"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as name, house(Path(name)) as settings:
        files = head(Path(name) / "head")
        cpu = HouseCpu()
        threading.Event().wait(IDLE_S)  # the first seconds load libraries and the package
        before = cpu.seconds()
        threading.Event().wait(IDLE_S)
        idle_rate = (cpu.seconds() - before) / IDLE_S
        print(f"idle: {idle_rate:.3f} CPU-s a second over all processes")
        for run in range(STUDIES):
            copies = as_new_study(files, Path(name) / f"study-{run}", run)
            record.rows.append(one_run(copies, settings, cpu, idle_rate, run))
            print(
                "  ".join(f"{k} {record.rows[-1][k]:.2f}" for k in (*STEPS, "receive_s", "overhead_cpu_s")), flush=True
            )
    totals = sorted(row["total_s"] for row in record.rows)
    record.ratio("overhead_cpu_s", [row["overhead_cpu_s"] for row in record.rows])
    record.ratio("overhead_with_receiving_cpu_s", [r["overhead_cpu_s"] + r["receive_cpu_s"] for r in record.rows])
    record.ratio("p50_s", totals)
    p95 = statistics.quantiles(totals, n=20, method="inclusive")[-1]
    record.ratios["p95_s"] = {"median": round(p95, 3), "low": totals[0], "high": totals[-1], "n": len(totals)}
    path = record.write()
    for name_, ratio in record.ratios.items():
        print(f"{name_:32} median {ratio['median']}  low {ratio['low']}  high {ratio['high']}  n {ratio['n']}")
    print(f"load {record.load_before:.1f}, quiet {record.quiet}; {path}")


if __name__ == "__main__":
    main()

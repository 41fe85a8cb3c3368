"""Five networks on one CPU thread: PyTorch as MONAI runs it, OpenVINO, ONNX Runtime; volumes; what surrounds them.

One interleaved run, the order of subjects drawn anew in each repetition; figures are CPU seconds of the process, which
a busy host changes less than wall seconds. Whole volumes and what surrounds a network run in processes of their own.
`python -m bench.inference [CASE …]` runs only the cases of these names.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.bars import Bar, Row, keep
from bench.engine_subjects import BF16, MONAI, ONNXRUNTIME, OPENVINO, SUBJECTS, absent, engine_of
from bench.networks import NETWORKS, exported
from bench.record import OUT, Record
from models.engines import Engine

RUNS = int(os.environ.get("CURIE_BENCH_RUNS", "5"))
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
VOLUMES = {"UNet": (256, 256, 160), "SegResNet": (168, 168, 168)}  # 32 and 8 windows
LIMIT_S = 1200
OURS, MONAIS = "ours", "monai"
PREPOST = "CT before and after"


def volume_case(network: str) -> str:
    """Return the name of a whole volume's case."""
    return f"{network} volume"


BARS = (
    Bar("openvino_vs_monai_unet_volume", "≥ 2", volume_case("UNet"), "cpu_s", MONAI, OPENVINO),
    Bar("openvino_vs_monai_segresnet", "≥ 1.2", volume_case("SegResNet"), "cpu_s", MONAI, OPENVINO),
    Bar("bf16_vs_monai_unet_volume", "≥ 4", volume_case("UNet"), "cpu_s", MONAI, BF16),
    Bar("prepost_ct_cpu_s", "≤ 4", PREPOST, "cpu_s", OURS),
    Bar("prepost_cpu_vs_monai", "≤ 0.2", PREPOST, "cpu_s", OURS, MONAIS),
)


class Windows:
    """One window (or batch of slices) through every engine of a network, the engines made once."""

    def __init__(self, network: str, subjects: Sequence[str], folder: Path) -> None:
        self.network = network
        plan = NETWORKS[network]
        generator = torch.Generator().manual_seed(1)
        self._batch = torch.rand((plan.batch, *plan.window), generator=generator)
        self._engines: dict[str, Engine] = {one: engine_of(one, network, folder) for one in subjects}
        self._expected = {one: engine.run(self._batch) for one, engine in self._engines.items()}  # warms up, too

    def measure(self, subject: str) -> Row:
        """Return what one batch cost, and how far its answer is from PyTorch's as a share of its range."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._engines[subject].run(self._batch)
        row = {"cpu_s": round(time.process_time() - cpu, 4), "wall_s": round(time.perf_counter() - wall, 4)}
        reference = self._expected[MONAI]
        largest = (self._expected[subject] - reference).abs().max() / (reference.max() - reference.min())
        return row | {"largest_of_range": float(f"{float(largest):.2e}")}

    def close(self) -> None:
        """Give the engines back."""
        for engine in self._engines.values():
            engine.close()


def in_process(module: str, *arguments: str) -> Row:
    """Return the JSON line that a module prints in a process of its own on one thread."""
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    done = subprocess.run(
        command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, timeout=LIMIT_S, text=True, check=True
    )
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def whole_volume(subject: str, network: str, folder: Path) -> Row:
    """Return what a whole volume cost, and the share of voxels that get MONAI's label where MONAI ran before."""
    row = in_process("bench.volume_run", subject, network, str(folder))
    reference = folder / f"{network}.{MONAI}.npy"
    if reference.exists():
        differ = np.unpackbits(np.load(reference) ^ np.load(folder / f"{network}.{subject}.npy")).mean()
        row["same_labels"] = round(1 - float(differ), 6)
    return row


def repeated(record: Record, case: str, subjects: Sequence[str], measure: Callable[[str], Row]) -> None:
    """Run every subject RUNS times, each repetition in its own order; keep and print the rows."""
    for run in range(1, RUNS + 1):
        for subject in random.Random(f"{case} {run}").sample(subjects, len(subjects)):
            load = round(os.getloadavg()[0], 2)
            record.rows.append({"subject": subject, "case": case, "run": run, **measure(subject), "load": load})
            print(line(record.rows[-1]), flush=True)


HEADINGS = ("CPU-s", "wall s", "peak MB", "off of range", "same labels", "before", "after")
FIGURES = ("cpu_s", "wall_s", "peak_rss_mb", "largest_of_range", "same_labels", "pre_cpu_s", "post_cpu_s")


def line(row: Row) -> str:
    """Return a row as a line of the table."""
    cells = "".join(f"{row[name]:>13.5g}" if row.get(name) is not None else f"{'':>13}" for name in FIGURES)
    return f"{row['case']:20} {row['subject']:16}{cells}"


def medians(rows: Sequence[Row]) -> Row:
    """Return the medians of some rows of one case and subject."""
    found: dict[str, Any] = {"case": rows[0]["case"], "subject": rows[0]["subject"]}
    for name in FIGURES:
        if values := [row[name] for row in rows if row.get(name) is not None]:
            found[name] = statistics.median(values)
    return found


def print_table(rows: Sequence[Row]) -> None:
    """Print the medians of every case and subject."""
    print(f"\n{'medians':37}" + "".join(f"{name:>13}" for name in HEADINGS))
    for case, subject in dict.fromkeys((row["case"], row["subject"]) for row in rows):
        print(line(medians([row for row in rows if (row["case"], row["subject"]) == (case, subject)])))


def measure_all(record: Record, chosen: Sequence[str], subjects: Sequence[str], folder: Path) -> None:
    """Run every case that was chosen, network by network."""
    random_voxels = np.random.default_rng(1914)
    for network in NETWORKS:
        cases = [f"{network} window", *([volume_case(network)] if network in VOLUMES else [])]
        if not set(cases) & set(chosen):
            continue
        exported(network, folder)
        if cases[0] in chosen:
            windows = Windows(network, subjects, folder)
            repeated(record, cases[0], subjects, windows.measure)
            windows.close()
        if cases[-1] in chosen and network in VOLUMES:
            np.save(folder / f"{network}.volume.npy", random_voxels.random(VOLUMES[network], np.float32))
            in_turn = [one for one in subjects if one != ONNXRUNTIME or network == "UNet"]
            repeated(record, cases[-1], in_turn, partial(whole_volume, network=network, folder=folder))
    if PREPOST in chosen:
        np.save(folder / "ct.npy", random_voxels.integers(-1000, 1000, (300, 512, 512), dtype=np.int16))
        repeated(record, PREPOST, (OURS, MONAIS), lambda one: in_process("bench.prepost_run", one, str(folder)))


def main() -> None:
    """Run the benchmark."""
    cases = [f"{one} window" for one in NETWORKS] + [volume_case(one) for one in VOLUMES] + [PREPOST]
    chosen = sys.argv[1:] or cases
    if unknown := sorted(set(chosen) - set(cases)):
        sys.exit(f"no case {unknown[0]!r}; there are {', '.join(cases)}")
    reasons = {one: reason for one in SUBJECTS if (reason := absent(one))}
    for subject, reason in reasons.items():
        print(f"without {subject}: {reason}")
    OUT.mkdir(exist_ok=True)
    record = Record("inference", ("torch", "monai", "openvino", "onnxruntime", "onnx"))
    with tempfile.TemporaryDirectory(prefix="inference-") as name:
        measure_all(record, chosen, [one for one in SUBJECTS if one not in reasons], Path(name))
    print_table(record.rows)
    keep(record, BARS, lambda bar: reasons.get(bar.other, f"{bar.case} was not run"))
    print(f"load before {record.load_before:.1f}, quiet {record.quiet}; {record.write()}")


if __name__ == "__main__":
    main()

"""Networks, a whole CT, and refit against rebuild on an NVIDIA GPU: PyTorch in four ways, TensorRT and TensorRT-RTX.

`python -m bench.gpu` wants PyTorch with CUDA; MONAI, onnxscript and TensorRT where they are there. What is
missing becomes a figure of null with its reason. Ends with 3 where there is no GPU. TF32 is off throughout.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.bars import Bar, Row, keep
from bench.gpu_subjects import AMP, DEVICE, EAGER, GRAPH_AMP, SUBJECTS, Absent, Call, build_and_refit, call_of
from bench.networks import EVERY
from bench.record import OUT, Record

RUNS = int(os.environ.get("CURIE_BENCH_RUNS", "5"))
BATCH = 4
CALLS = 20  # of a batch, in one repetition
LIBRARIES = ("torch", "monai", "onnx", "onnxscript", "onnxconverter-common", "tensorrt", "tensorrt-rtx-cu13-libs")
WHOLE, REFIT = "CT end to end", "UNet f16 plan"
OURS, BUNDLE = "ours", "MONAI bundle"
BARS = (
    Bar("trt_fp16_vs_eager_fp32", "≥ 2.5", "UNet window", "ms", EAGER, "tensorrt f16"),
    Bar("trt_fp16_vs_amp", "≥ 1.3", "UNet window", "ms", AMP, "tensorrt f16"),
    Bar("end_to_end_vs_monai_bundle", "≥ 1.5", WHOLE, "wall_s", BUNDLE, OURS),
    Bar("refit_vs_rebuild", "≥ 5", REFIT, "wall_s", "rebuild", "refit"),
)


def tried(reasons: dict[str, str], what: str, make: Callable[[], Any]) -> Any:
    """Return what `make` makes, or None with the reason kept under `what` and printed."""
    try:
        return make()
    except Absent as reason:
        reasons[what] = str(reason)
    except (RuntimeError, torch.OutOfMemoryError) as error:
        reasons[what] = next(iter(str(error).splitlines()), type(error).__name__)[:300]
    print(f"without {what}: {reasons[what]}", flush=True)
    return None


def milliseconds(call: Call, batch: Tensor) -> float:
    """Return the milliseconds one window takes in batches, by the GPU's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    call(batch)
    start.record()
    for _ in range(CALLS):
        call(batch)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / CALLS / len(batch)


def seconds(work: Callable[[], object]) -> float:
    """Return the wall seconds of some work until the GPU has done it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def windows(record: Record, network: str, reasons: dict[str, str]) -> None:
    """Run every subject over batches of one network's windows; their answers are held against eager f32."""
    case = f"{network} window"
    batch = torch.rand((BATCH, *EVERY[network].window), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    calls = {one: tried(reasons, f"{case}, {one}", partial(call_of, one, network)) for one in SUBJECTS}
    expected = calls[EAGER](batch).clone() if calls[EAGER] else None
    wide = float(expected.max() - expected.min()) if expected is not None else 1.0
    apart = {}
    for one in [one for one, call in calls.items() if call]:
        answer = tried(reasons, f"{case}, {one}", partial(calls[one], batch))
        if answer is None:
            calls[one] = None
        elif expected is not None:
            apart[one] = float(f"{float((answer - expected).abs().max()) / wide:.2e}")
    there = [one for one, call in calls.items() if call]
    for run in range(1, RUNS + 1):
        for one in random.Random(f"{case} {run}").sample(there, len(there)):
            figures = {"ms": round(milliseconds(calls[one], batch), 4), "largest_of_range": apart.get(one)}
            add(record, one, case, run, figures)


def whole_volume(record: Record, reasons: dict[str, str]) -> None:
    """Run a whole CT through our path, with the best call there is, and through a bundle's."""
    from bench.gpu_end_to_end import bundle_way, our_way

    ct = np.random.default_rng(1914).integers(-1000, 1000, (300, 512, 512), dtype=np.int16)
    plans = (one for one in ("tensorrt f16", "tensorrt-rtx f16") if f"UNet window, {one}" not in reasons)
    best = next(plans, GRAPH_AMP)
    mine, theirs = call_of(best, "UNet"), call_of(EAGER, "UNet")
    ways = {OURS: lambda: our_way(ct, Batches(mine)), BUNDLE: lambda: bundle_way(ct, theirs)}
    ways = {one: way for one, way in ways.items() if tried(reasons, f"{WHOLE}, {one}", way) is not None}
    for run in range(1, RUNS + 1):
        for one in random.Random(f"{WHOLE} {run}").sample(list(ways), len(ways)):
            torch.cuda.reset_peak_memory_stats()
            spent = round(seconds(ways[one]), 4)
            peak = round(torch.cuda.max_memory_allocated() / 2**20, 1)
            add(record, one, WHOLE, run, {"wall_s": spent, "peak_gpu_mb": peak, "engine": best if one == OURS else AMP})


class Batches:
    """A call that is given batches of one size only: the last, smaller one is filled up."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the answers of a batch of up to BATCH windows."""
        count = len(batch)
        if count < BATCH:
            batch = torch.cat([batch, batch[:1].expand(BATCH - count, *batch.shape[1:])])
        return self._call(batch)[:count]


def refits(record: Record, reasons: dict[str, str]) -> None:
    """Build a plan anew and refit one, each until its first answer."""
    batch = torch.rand((BATCH, *EVERY["UNet"].window)).to(DEVICE)
    for rung in ("tensorrt", "tensorrt-rtx"):
        pair = tried(reasons, f"{REFIT}, {rung}", partial(build_and_refit, rung, "UNet"))
        if pair is None:
            continue
        ways = dict(zip(("rebuild", "refit"), pair, strict=True))
        for run in range(1, RUNS + 1):
            for one in random.Random(f"{REFIT} {run}").sample(list(ways), 2):
                spent = seconds(partial(ways[one], batch))
                add(record, one, REFIT, run, {"wall_s": round(spent, 4), "on": rung})
        return


def add(record: Record, subject: str, case: str, run: int, figures: Row) -> None:
    """Keep and print one row."""
    record.rows.append({"subject": subject, "case": case, "run": run, **figures, "load": round(os.getloadavg()[0], 2)})
    print(f"{case:20} {subject:20} {run:>2}  {figures}", flush=True)


def print_table(rows: Sequence[Row]) -> None:
    """Print the medians of every case and subject."""
    print(f"\n{'medians':42}{'ms a window':>14}{'wall s':>10}")
    for case, subject in dict.fromkeys((row["case"], row["subject"]) for row in rows):
        mine = [row for row in rows if (row["case"], row["subject"]) == (case, subject)]
        cells = ""
        for name in ("ms", "wall_s"):
            cells += f"{statistics.median(row[name] for row in mine):>12.3f}" if name in mine[0] else f"{'':>12}"
        print(f"{case:20} {subject:20} {cells}")


def why_none(bar: Bar, reasons: dict[str, str]) -> str:
    """Return why a ratio could not be had: the first reason for one of its two rows."""
    wanted = {bar.case, *(f"{bar.case}, {one}" for one in (bar.subject, bar.other))}
    if bar.case == REFIT:
        wanted = {f"{REFIT}, tensorrt"}
    return next((reason for what, reason in reasons.items() if what in wanted), f"{bar.case} was not run")


def versions() -> dict[str, str]:
    """Return the versions of what is there."""
    found = {"python": sys.version.split()[0], "cuda": str(torch.version.cuda)}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Run the benchmark."""
    if not torch.cuda.is_available():
        print(f"no NVIDIA GPU here: PyTorch {torch.__version__} finds no CUDA device; bench-gpu was not run")
        sys.exit(3)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    OUT.mkdir(exist_ok=True)
    record = Record("gpu", ("torch",))
    record.versions |= versions()
    record.gpu = torch.cuda.get_device_name(DEVICE)
    reasons: dict[str, str] = {}
    for network in EVERY:
        windows(record, network, reasons)
    tried(reasons, WHOLE, lambda: whole_volume(record, reasons))
    refits(record, reasons)
    print_table(record.rows)
    keep(record, BARS, lambda bar: why_none(bar, reasons))
    print(f"{record.gpu}; {record.write()}")


if __name__ == "__main__":
    main()

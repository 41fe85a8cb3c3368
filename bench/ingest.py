"""Our receiver beside storescp, Orthanc and pynetdicom, in one interleaved run: rates, CPU, memory, stored bytes.

Ours answers after fsync of file and folder, storescp and pynetdicom after write(), Orthanc after fdatasync of the file.
`python -m bench.ingest [CASE …]` runs only the cases of these names. Ends with 1 when a dataset was lost.
"""

from __future__ import annotations

import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measured_run import Case, Row, one_run
from bench.pdus import Broken
from bench.receivers import SUBJECTS, absent, dcmtk_environment
from bench.record import OUT, Record

RUNS = int(os.environ.get("CURIE_BENCH_RUNS", "5"))
CT = {"curie": 800, "storescp --fork": 800, "orthanc": 200, "pynetdicom": 200, "null sink": 800, "fsync loop": 400}
MR = {"curie": 1500, "storescp": 1500, "orthanc": 200, "pynetdicom": 200, "null sink": 1500}
UNTUNED = {"curie": 60, "storescp untuned": 60}
CASES = (
    Case("CT k=1", "ct", CT | {"storescp": 800}),
    *(Case(f"CT k={k}", "ct", CT, connections=k) for k in (4, 8, 16)),
    Case("MR k=1", "mr", MR),
    Case("MR storescu", "mr", UNTUNED, sender="storescu"),
    Case("MR storescu NODELAY", "mr", UNTUNED, sender="storescu TCP_NODELAY=1"),
    Case("300 MB k=1", "multiframe", {"curie": 1, "storescp": 1}),
)


@dataclass(frozen=True)
class Ratio:
    """A figure of ours in a case ÷ a subject's, within one repetition; without a subject, ours alone."""

    name: str
    target: str  # what we promise, or nothing
    case: str
    field: str
    subject: str = ""
    subjects_field: str = ""  # where it is not the same

    def of(self, rows: Sequence[Row], run: int) -> float | None:
        """Return the ratio of one repetition, or None where a row is missing."""
        ours = self._figure(rows, run, "curie", self.field)
        if not self.subject or ours is None:
            return ours
        theirs = self._figure(rows, run, self.subject, self.subjects_field or self.field)
        return ours / theirs if theirs else None

    def _figure(self, rows: Sequence[Row], run: int, subject: str, field: str) -> float | None:
        wanted = (self.case, run, subject)
        row = next((row for row in rows if (row["case"], row["run"], row["subject"]) == wanted), {})
        return row.get(field)


INDEXING = "cpu_with_indexing_s_per_gb"
RATIOS = (
    Ratio("durable_cpu_vs_storescp", "≤ 2.0", "CT k=1", "cpu_s_per_gb", "storescp"),
    Ratio("durable_cpu_vs_orthanc", "≤ 0.2", "CT k=1", "cpu_s_per_gb", "orthanc"),
    Ratio("durable_rate_k8_vs_storescp_fork", "≥ 0.8", "CT k=8", "instances_s", "storescp --fork"),
    Ratio("durable_rate_k8_vs_orthanc", "≥ 4", "CT k=8", "instances_s", "orthanc"),
    Ratio("durable_rate_k1_vs_orthanc", "≥ 2", "CT k=1", "instances_s", "orthanc"),
    Ratio("rate_vs_pynetdicom", "≥ 6", "CT k=8", "instances_s", "pynetdicom"),
    Ratio("untuned_mr_rate_vs_storescp", "≥ 4", "MR storescu", "instances_s", "storescp untuned"),
    Ratio("rss_mb_over_interpreter_300mb", "≤ 16", "300 MB k=1", "rss_growth_mb"),
    Ratio("durable_bytes_vs_fsync_loop", "≥ 0.7", "CT k=8", "mb_s", "fsync loop"),
    Ratio("rate_k1_vs_pynetdicom", "", "CT k=1", "instances_s", "pynetdicom"),
    Ratio("durable_rate_k1_vs_storescp", "", "CT k=1", "instances_s", "storescp"),
    Ratio("durable_bytes_k1_vs_fsync_loop", "", "CT k=1", "mb_s", "fsync loop"),
    Ratio("durable_rate_k8_vs_null_sink", "", "CT k=8", "instances_s", "null sink"),
    Ratio("cpu_with_indexing_vs_storescp", "", "CT k=1", INDEXING, "storescp", "cpu_s_per_gb"),
    Ratio("cpu_with_indexing_vs_orthanc", "", "CT k=1", INDEXING, "orthanc", "cpu_s_per_gb"),
)


def is_met(target: str, value: float) -> bool:
    """Return whether a median meets its target."""
    limit = float(target[1:])
    return value <= limit if target[0] == "≤" else value >= limit


def repetition(cases: Sequence[Case], run: int, left_out: Sequence[str], folder: Path) -> tuple[list[Row], list[str]]:
    """Run every case with every subject once, in this repetition's own order; return rows and failures."""
    order, rows, failures = random.Random(run), [], []
    for case in order.sample(cases, len(cases)):
        subjects = [subject for subject in case.counts if subject not in left_out]
        for subject in order.sample(subjects, len(subjects)):
            with tempfile.TemporaryDirectory(dir=folder) as name:
                try:
                    rows.append(one_run(subject, case, run, Path(name)))
                    print(_line(rows[-1]), flush=True)
                except Broken as error:
                    failures.append(f"{subject}, {case.name}, run {run}: {error}")
                    print(f"FAILED {failures[-1]}", flush=True)
    return rows, failures


FIGURES = (
    "instances_s",
    "mb_s",
    "p50_ms",
    "p95_ms",
    "cpu_s_per_gb",
    INDEXING,
    "indexed_after_s",
    "peak_rss_mb",
    "rss_growth_mb",
)
HEADINGS = ("inst/s", "MB/s", "p50 ms", "p95 ms", "CPU-s/GB", "+index", "idx s", "peak MB", "grown MB")


def _line(row: Row) -> str:
    cells = "".join(f"{row[field]:>10.2f}" if row.get(field) is not None else f"{'':>10}" for field in FIGURES)
    return f"{row['case']:20} {row['subject']:17}{cells}"


def print_table(rows: Sequence[Row]) -> None:
    """Print the medians of every case and subject."""
    print(f"\n{'medians':20} {'':17}" + "".join(f"{heading:>10}" for heading in HEADINGS))
    for case in CASES:
        for subject in case.counts:
            mine = [row for row in rows if (row["case"], row["subject"]) == (case.name, subject)]
            if mine:
                print(_line({"case": case.name, "subject": subject} | _medians(mine)))


def _medians(rows: Sequence[Row]) -> Row:
    return {field: statistics.median(row[field] for row in rows) for field in FIGURES if field in rows[0]}


def keep_ratios(record: Record, reasons: dict[str, str]) -> None:
    """Put every ratio into the record, or why it could not be had, and print them against their targets."""
    runs = sorted({row["run"] for row in record.rows})
    print(f"\n{'ratio':36}{'median':>9}{'low':>9}{'high':>9}  n  target")
    for ratio in RATIOS:
        values = [value for run in runs if (value := ratio.of(record.rows, run)) is not None]
        if not values:
            record.no_ratio(ratio.name, reasons.get(ratio.subject, f"no run of {ratio.case} was complete"))
            print(f"{ratio.name:36}     none: {record.ratios[ratio.name]['reason']}")
            continue
        record.ratio(ratio.name, values)
        print(_ratio_line(ratio, **record.ratios[ratio.name]))


def _ratio_line(ratio: Ratio, median: float, low: float, high: float, n: int) -> str:
    verdict = f"{ratio.target} {'met' if is_met(ratio.target, median) else 'MISSED'}" if ratio.target else "(no target)"
    return f"{ratio.name:36}{median:>9.3f}{low:>9.3f}{high:>9.3f}  {n}  {verdict}; {ratio.case}"


def _first_line(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, env=dcmtk_environment(True)).stdout.split("\n")[
            0
        ]
    except FileNotFoundError:
        return "not installed"


def _versions() -> dict[str, str]:
    return {
        "dcmtk": _first_line("storescp", "--version").strip("$ "),
        "orthanc": _first_line("Orthanc", "--version"),
        "kernel": platform.release(),
        "file system": _first_line("stat", "-f", "-c", "%T", str(OUT)),
        "python": platform.python_version(),
    }


def main() -> None:
    """Run the benchmark."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    OUT.mkdir(exist_ok=True)
    cases = [case for case in CASES if not sys.argv[1:] or case.name in sys.argv[1:]]
    reasons = {name: reason for name, subject in SUBJECTS.items() if (reason := absent(subject))}
    for name, reason in reasons.items():
        print(f"without {name}: {reason}")
    record = Record("ingest", ("pynetdicom", "pydicom", "sqlalchemy"))
    record.versions |= _versions()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=OUT) as name:  # on the disk that the spool would have
        for run in range(1, RUNS + 1):
            rows, failed = repetition(cases, run, list(reasons), Path(name))
            record.rows += rows
            failures += failed
    print_table(record.rows)
    keep_ratios(record, reasons)
    print(f"load before {record.load_before:.1f}, quiet {record.quiet}; {record.write()}")
    if failures:
        sys.exit("\n".join(["", f"{len(failures)} runs failed:", *failures]))


if __name__ == "__main__":
    main()

"""SEG and SR as the appliance writes them, against highdicom as its documentation uses it; each in its own process.

One interleaved run, the order drawn anew in each repetition. Figures are CPU seconds and peak memory of a process that
has the label map and the headers already, its libraries loaded. The writers of MONAI Deploy App SDK hand the same
work to highdicom, and need NVIDIA's holoscan to be imported at all: they are not measured.
`python -m bench.results [CASE …]` runs only the cases of these names.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys

from bench.bars import Bar, Row, keep
from bench.record import Record

RUNS = int(os.environ.get("CURIE_BENCH_RUNS", "5"))
LIMIT_S = 900
CURIE, HIGHDICOM, MONAI_DEPLOY = "curie", "highdicom", "monai-deploy"
SIZES = [(slices, segments) for slices in (120, 600) for segments in (1, 3, 20, 104)]
NO_HOLOSCAN = (
    "monai-deploy-app-sdk 4.0.0 cannot be imported without holoscan-cu13 (CUDA); its SEG writer calls highdicom"
)


def case_of(kind: str, slices: int, segments: int) -> str:
    """Return the name of a case."""
    return f"{kind} {slices}x{segments}"


CASES = [case_of("SEG", *one) for one in SIZES] + [case_of("SR", *one) for one in ((120, 3), (600, 20))]
BARS = (
    Bar("seg_600x20_cpu_vs_highdicom", "≤ 0.33", case_of("SEG", 600, 20), "cpu_s", CURIE, HIGHDICOM),
    Bar("seg_600x104_cpu_vs_highdicom", "≤ 0.33", case_of("SEG", 600, 104), "cpu_s", CURIE, HIGHDICOM),
    Bar("seg_600x104_rss_vs_highdicom", "≤ 0.33", case_of("SEG", 600, 104), "peak_rss_mb", CURIE, HIGHDICOM),
    Bar("sr_cpu_s", "≤ 0.5", case_of("SR", 600, 20), "cpu_s", CURIE),
    Bar("seg_600x20_cpu_vs_monai_deploy", "≤ 0.33", case_of("SEG", 600, 20), "cpu_s", CURIE, MONAI_DEPLOY),
)


def measure(subject: str, case: str) -> Row:
    """Return what one object cost."""
    kind, size = case.split()
    command = [sys.executable, "-W", "ignore", "-m", "bench.results_run", subject, kind, *size.split("x")]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=LIMIT_S, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def shown(row: Row) -> str:
    """Return a row as a line of the table."""
    voxels = {True: "same voxels", False: "OTHER VOXELS", None: ""}[row.get("same_voxels")]
    figures = f"{row['cpu_s']:>9.3f}{row['mb']:>11.3f}{row['peak_rss_mb']:>10.1f}"
    return f"{row['case']:14}{row['subject']:12}{figures}  {voxels}"


def median_row(rows: list[Row]) -> Row:
    """Return the medians of one case and subject."""
    found: Row = {name: rows[0].get(name) for name in ("case", "subject")}
    found["same_voxels"] = all(row.get("same_voxels", True) for row in rows) if "same_voxels" in rows[0] else None
    return found | {name: statistics.median(row[name] for row in rows) for name in ("cpu_s", "mb", "peak_rss_mb")}


def main() -> None:
    """Run the benchmark."""
    chosen = sys.argv[1:] or CASES
    if unknown := sorted(set(chosen) - set(CASES)):
        sys.exit(f"no case {unknown[0]!r}; there are {', '.join(CASES)}")
    record = Record("results", ("highdicom", "pydicom", "numpy"))
    for case in chosen:
        for run in range(1, RUNS + 1):
            for subject in random.Random(f"{case} {run}").sample((CURIE, HIGHDICOM), 2):
                load = round(os.getloadavg()[0], 2)
                record.rows.append(
                    {"subject": subject, "case": case, "run": run, **measure(subject, case), "load": load}
                )
                print(shown(record.rows[-1]), flush=True)
    print(f"\n{'medians':26}{'CPU-s':>9}{'MB':>11}{'peak MB':>10}")
    for case, subject in dict.fromkeys((row["case"], row["subject"]) for row in record.rows):
        print(shown(median_row([row for row in record.rows if (row["case"], row["subject"]) == (case, subject)])))
    keep(record, BARS, lambda bar: NO_HOLOSCAN if bar.other == MONAI_DEPLOY else f"{bar.case} was not run")
    print(f"load before {record.load_before:.1f}, quiet {record.quiet}; {record.write()}")


if __name__ == "__main__":
    main()

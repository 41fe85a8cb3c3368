"""Fuzz the doors: `python -m tests.fuzz.pdu_gate [-max_total_time=SECONDS] CORPUS` (or `make fuzz MINUTES=20`).

An empty corpus is filled with seeds. A finding ends the run and lies beside the corpus as `crash-…`; make it small
with `-minimize_crash=1`, and put its bytes into tests/dicom_nodes/test_fuzz_findings.py.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import atheris
import structlog

INSTRUMENTED = ["dicom_nodes", "python_multipart", "tests.fuzz.targets"]
LIMITS = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]

with atheris.instrument_imports(include=INSTRUMENTED):
    from tests.fuzz.seeds import write_seeds
    from tests.fuzz.targets import run_one, shrink


def main() -> None:
    """Run until a finding or the end of the time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    shrink()
    given = sys.argv[1:]
    folder = Path(next((one for one in given if not one.startswith("-")), ".build/fuzz/corpus"))
    write_seeds(folder)
    missing = [one for one in LIMITS if not any(other.startswith(one.split("=")[0]) for other in given)]
    arguments = [one for one in given if one.startswith("-")]
    prefix = [f"-artifact_prefix={folder.parent}/"]
    atheris.Setup([sys.argv[0], *missing, *prefix, *arguments, str(folder)], run_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""What every benchmark writes: host, versions, rows and ratios, in the shape that CONTRACT.md gives."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "out"
QUIET_LOAD = 2.0
WAIT_S = 600.0


def wait_until_quiet(patience_s: float) -> bool:
    """Wait while the load is above 2, but no longer than told; returns whether it went below."""
    deadline = time.monotonic() + patience_s
    while os.getloadavg()[0] > QUIET_LOAD:
        if time.monotonic() > deadline:
            return False
        time.sleep(5)
    return True


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


class Record:
    """One benchmark's rows and ratios, and the state of the host around them."""

    def __init__(self, name: str, libraries: Sequence[str], patience_s: float = WAIT_S) -> None:
        self.name = name
        self.rows: list[dict[str, Any]] = []
        self.ratios: dict[str, dict[str, Any]] = {}
        self.gpu: str | None = None
        self.versions = {library: version(library) for library in libraries}
        self.quiet = wait_until_quiet(patience_s)
        self.when = datetime.now(UTC).isoformat(timespec="seconds")
        self.load_before = os.getloadavg()[0]

    def ratio(self, name: str, values: Sequence[float]) -> None:
        """Keep median, lowest and highest of some values."""
        self.ratios[name] = {
            "median": round(statistics.median(values), 3),
            "low": round(min(values), 3),
            "high": round(max(values), 3),
            "n": len(values),
        }

    def no_ratio(self, name: str, reason: str) -> None:
        """Keep that a figure could not be had, and why."""
        self.ratios[name] = {"median": None, "reason": reason}

    def write(self) -> Path:
        """Write bench/out/NAME.json and return its path."""
        OUT.mkdir(exist_ok=True)
        host = {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "load_before": self.load_before,
            "load_after": os.getloadavg()[0],
            "quiet": self.quiet,
            "gpu": self.gpu,
        }
        document = {
            "name": self.name,
            "when": self.when,
            "host": host,
            "versions": self.versions,
            "rows": self.rows,
            "ratios": self.ratios,
        }
        path = OUT / f"{self.name}.json"
        path.write_text(json.dumps(document, indent=2) + "\n")
        return path

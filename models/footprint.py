"""How much memory a run needs: the peak of this process over what it held before, or of a CUDA device."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil
import torch

MB = 2**20
SHARE_OF_HOST = 0.7  # of a host's memory: the rest is for receiving, delivering and the database


def budget_mb(device: str) -> float:
    """Return how much memory packages may take when the settings name none: what the device has."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device if device != "auto" else "cuda:0").total_memory * 0.9 / MB
    return float(psutil.virtual_memory().total) * SHARE_OF_HOST / MB


class Footprint:
    """Measures the peak between `with` and its end: resident memory, or memory of the CUDA device."""

    def __init__(self, on: torch.device) -> None:
        self._on = on
        self.peak_mb = 0.0

    def __enter__(self) -> Footprint:
        if self._on.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._on)
        else:
            with suppress(OSError):  # a locked-down /proc: then the peak since the process began
                Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._on)
            self.peak_mb = max(torch.cuda.max_memory_reserved(self._on), total - free) / MB
        else:
            self.peak_mb = high_water_mb()


def high_water_mb() -> float:
    """Return the peak of this process's resident memory since it was last reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0

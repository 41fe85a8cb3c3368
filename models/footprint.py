"""How much memory a run needs: the peak of this process over what it held before, or of a CUDA device."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil
import torch

from models.engines import Place

MB = 2**20
SHARE_OF_HOST = 0.7  # of a host's memory: the rest is for receiving, delivering and the database


def budget_mb(place: Place) -> float:
    """Return how much memory packages may take when the settings name none: what the device has."""
    device = device_of(place)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory * 0.9 / MB
    return float(psutil.virtual_memory().total) * SHARE_OF_HOST / MB


def device_of(place: Place) -> torch.device:
    """Return where engines of this place hold their memory."""
    on_gpu = place.device != "cpu" and torch.cuda.is_available()
    return torch.device(place.cuda if on_gpu else "cpu")


class Footprint:
    """Measures what a piece of work needs: resident memory of this process, or memory of the CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before_mb = 0.0
        self.grown_mb = 0.0  # peak over what was held before
        self.kept_mb = 0.0  # what was still held at the end

    def __enter__(self) -> Footprint:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with suppress(OSError):  # a locked-down /proc: then the peak since the process began
                Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        self._before_mb = self._held_mb("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kept_mb = max(0.0, self._held_mb("VmRSS") - self._before_mb)
        self.grown_mb = max(self.kept_mb, self._held_mb("VmHWM") - self._before_mb)

    def _held_mb(self, which: str) -> float:
        if self._device.type != "cuda":
            return resident_mb(which)
        if which == "VmHWM":
            return torch.cuda.max_memory_reserved(self._device) / MB
        return torch.cuda.memory_reserved(self._device) / MB


def resident_mb(which: str) -> float:
    """Return this process's resident memory ("VmRSS"), or its peak since it was last reset ("VmHWM")."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0

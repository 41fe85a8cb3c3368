"""What is asked of the machine itself: does its clock keep time, is there a GPU, is it full. It only reads."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

UNSYNCHRONISED = 5  # adjtimex(2): TIME_ERROR
DRIVER = Path("/proc/driver/nvidia/version")
SMI = "nvidia-smi"
ANSWER_S = 5.0
MEMORY_S = 60.0  # between two looks at the memory of the GPUs
MIB = 1024**2


def clock_is_kept() -> bool | None:
    """Return whether the kernel's clock follows a time server; None where it does not say (in some containers)."""
    room = ctypes.create_string_buffer(1024)  # struct timex, its modes zero: nothing is set
    try:
        state = ctypes.CDLL(None).adjtimex(room)
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != UNSYNCHRONISED


def gpus() -> list[str]:
    """Return name, driver and memory of each NVIDIA GPU; none where no driver is loaded."""
    return [", ".join(one) for one in _asked("name", "driver_version", "memory.total")]


def _asked(*fields: str, more: str = "") -> list[list[str]]:
    """Return what the driver says of each GPU, field by field."""
    if not DRIVER.exists() or shutil.which(SMI) is None:
        return []
    words = [SMI, f"--query-gpu={','.join(fields)}", f"--format=csv,noheader{more}"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[one.strip() for one in line.split(",")] for line in told.splitlines() if line.strip()]


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU, whoever uses it."""

    number: int
    used_bytes: int
    total_bytes: int


def gpu_memory() -> Sequence[GpuMemory]:
    """Return the memory of each NVIDIA GPU; none where no driver is loaded or it does not say."""
    found = []
    for told in _asked("index", "memory.used", "memory.total", more=",nounits"):
        if len(told) == 3 and all(one.isdecimal() for one in told):
            number, used, total = map(int, told)
            found.append(GpuMemory(number, used * MIB, total * MIB))
    return found


class GpuWatch:
    """The memory of this host's GPUs for a heartbeat, looked at once a minute."""

    def __init__(self) -> None:
        self._found: Sequence[GpuMemory] = ()
        self._due = 0.0

    def told(self) -> dict[str, Any]:
        """Return what was found last, for the heartbeat."""
        if time.monotonic() >= self._due:
            self._found, self._due = gpu_memory(), time.monotonic() + MEMORY_S
        return {"gpus": [asdict(one) for one in self._found]}

"""What `curie doctor` asks of the machine itself: does its clock keep time, is there a GPU. It only reads."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

UNSYNCHRONISED = 5  # adjtimex(2): TIME_ERROR
DRIVER = Path("/proc/driver/nvidia/version")
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")


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
    if not DRIVER.exists() or shutil.which(QUERY[0]) is None:
        return []
    try:
        told = subprocess.run(QUERY, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.splitlines() if line.strip()]

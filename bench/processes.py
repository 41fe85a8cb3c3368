"""CPU and memory of a process and its descendants, read from /proc. It must never start or end one.

CPU is read by each process's own clock (nanoseconds, with ended threads); that of reaped children by /proc (10 ms).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
RESET_PEAK = "5"  # what /proc/PID/clear_refs takes to set VmHWM back to VmRSS, proc(5)


def tree(root: int) -> list[int]:
    """Return the process ids of a process and of its living descendants, zombies included."""
    return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]


def cpu_seconds(root: int) -> dict[int, float]:
    """Return user + system seconds of each process of a tree, with the children that it has reaped."""
    found = {}
    for pid in tree(root):
        try:
            own = time.clock_gettime(~pid << 3 | 2)  # the clock id of a process, clock_getcpuclockid(3)
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        found[pid] = own + TICK_S * (int(fields[13]) + int(fields[14]))  # cutime, cstime
    return found


def spent(before: dict[int, float], after: dict[int, float], only: Iterable[int] | None = None) -> float:
    """Return the seconds between two readings, of the whole tree or of some of its processes."""
    chosen = set(before) | set(after) if only is None else set(only)
    return sum(after.get(pid, 0.0) - before.get(pid, 0.0) for pid in chosen)


def _megabytes(pid: int, field: str) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


def resident_mb(root: int) -> dict[int, float]:
    """Return the resident size of each process of a tree."""
    return {pid: _megabytes(pid, "VmRSS:") for pid in tree(root)}


def peak_mb(root: int) -> dict[int, float]:
    """Return the peak resident size of each process of a tree, since its start or since `forget_peaks`."""
    return {pid: _megabytes(pid, "VmHWM:") for pid in tree(root)}


def forget_peaks(root: int) -> None:
    """Set the peak of each process of a tree back to its present size."""
    for pid in tree(root):
        try:
            Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)
        except OSError:
            continue


def is_listening(port: int) -> bool:
    """Return whether some process listens on a TCP port of this network namespace."""
    wanted = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(fields[1].endswith(wanted) and fields[3] == "0A" for fields in map(str.split, lines))

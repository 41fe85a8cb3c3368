"""What the disk allows: one thread that makes files durable one by one, with nothing else around it.

The order is the receiver's: the final name first, then fsync of file and folder, one journal commit in place of two.
It must never be run on another file system than the spool's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from bench.datasets import Instance
from bench.pdus import Buffer


def make_durable(folder: Path, sent: Sequence[Instance]) -> float:
    """Write each dataset, rename it, sync file and folder; returns the seconds it took."""
    folder.mkdir(parents=True)
    contents: list[tuple[str, list[Buffer]]] = [
        (str(folder / str(number)), [one.head, one.pixels]) for number, one in enumerate(sent)
    ]
    directory = os.open(folder, os.O_RDONLY)
    started = time.perf_counter()
    for name, parts in contents:
        descriptor = os.open(f"{name}.part", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        os.writev(descriptor, parts)
        os.rename(f"{name}.part", f"{name}.dcm")
        os.fsync(descriptor)
        os.fsync(directory)
        os.close(descriptor)
    ended = time.perf_counter()
    os.close(directory)
    return ended - started

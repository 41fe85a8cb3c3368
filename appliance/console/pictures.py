"""Pictures of results over their images: made on demand by a child with limits, the latest kept in memory.

Nothing of a picture is written to a disk, so that what retention or a person deletes is gone. A child that takes too
long or too much is ended; one draws at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass

from appliance.errors import CurieError, Missing

KEPT = 64  # pictures of about 200 kB
DRAWING_S = 60.0
CPU_S = 120  # of all threads together
MEMORY_BYTES = 4 * 1024**3  # of address space, libraries and their threads among it
MOST_VOXELS = 400_000_000
WAIT_S = 90.0  # for others to be drawn first


@dataclass(frozen=True)
class Order:
    """What to draw."""

    images: tuple[str, ...]  # files of the spool that the job read
    segmentation: str
    title: str


class Pictures:
    """The pictures of one console."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._one_at_a_time = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._over = False

    def of(self, key: str, order: Order) -> bytes:
        """Return a PNG. Raises CurieError with the reason where it cannot be drawn."""
        if key in self._kept:
            return self._kept[key]
        if not self._one_at_a_time.acquire(timeout=WAIT_S):
            raise CurieError("other pictures are being drawn; ask again in a minute")
        try:
            if key not in self._kept:
                self._kept[key] = self._drawn(order)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            return self._kept[key]
        finally:
            self._one_at_a_time.release()

    def close(self) -> None:
        """Draw no more; what is being drawn ends."""
        self._over = True
        child = self._child
        if child is not None:
            child.kill()

    def _drawn(self, order: Order) -> bytes:
        if self._over:
            raise Missing("the console is ending")
        command = [sys.executable, "-m", "appliance.console.drawing"]
        quiet = subprocess.DEVNULL  # what decoders write may quote a header
        given = json.dumps({**asdict(order), "memory_bytes": MEMORY_BYTES, "cpu_s": CPU_S}).encode()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet) as child:
            self._child = child
            try:
                out, _ = child.communicate(given, timeout=DRAWING_S)
            except subprocess.TimeoutExpired:
                raise CurieError(f"drawing took more than {DRAWING_S:.0f} s and was ended") from None
            finally:
                child.kill()
                self._child = None
        if child.returncode == 0:
            return out
        said = out.decode(errors="replace") if child.returncode == 1 else ""
        raise CurieError(said or "the images could not be drawn within the memory and time that one picture may take")

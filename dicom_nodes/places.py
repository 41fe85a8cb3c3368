"""How many associations there may be: one table in memory that the receiver's processes share.

A place is taken before a thread is spent. A quarter of all places is kept for listed sources. When no place is left
for a newcomer, an association that never brought anything and is silent gives way. A process that is killed
holds no lock afterwards, and its places are freed by `forget`.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SILENT_S = 0.5  # without a message, before an association that never brought anything gives way
_SLOT = struct.Struct("<IId??16s46s")  # pid, serial, heard at (monotonic), brought, listed, AE title, address
_HEARD_AT, _BROUGHT_AT = 8, 16
_SERIAL = struct.Struct("<II")
_FREE = bytes(_SLOT.size)


@dataclass(frozen=True)
class Limits:
    """The settings under [receiver]."""

    total: int
    per_source: int
    per_address: int

    @property
    def for_strangers(self) -> int:
        """Places that peers who are no listed source may take together."""
        return self.total - max(1, self.total // 4)


class Place:
    """One association's place, until it is left or given to another."""

    def __init__(self, places: Places, slot: int, serial: int) -> None:
        self._places = places
        self._at = slot * _SLOT.size
        self._own = _SERIAL.pack(os.getpid(), serial)

    def is_mine(self) -> bool:
        """Return whether this association may stay."""
        return self._places.memory[self._at : self._at + 8] == self._own

    def heard(self, brought: bool = False) -> None:
        """Note that a message came; `brought`: one that was kept."""
        if self.is_mine():
            struct.pack_into("<d", self._places.memory, self._at + _HEARD_AT, time.monotonic())
            if brought:
                self._places.memory[self._at + _BROUGHT_AT] = 1

    def leave(self) -> None:
        """Free the place."""
        with self._places.locked():
            if self.is_mine():
                self._places.memory[self._at : self._at + _SLOT.size] = _FREE


@dataclass(frozen=True)
class _Taken:
    slot: int
    pid: int
    heard: float
    brought: bool
    listed: bool
    ae_title: bytes
    address: bytes


class Places:
    """The table. Made before the processes fork, so that they share it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.memory = mmap.mmap(-1, limits.total * _SLOT.size)
        self._lock_file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the table
        self._threads = threading.Lock()
        self._serial = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other threads and processes out; a record lock ends with its process, however that ends."""
        with self._threads:
            fcntl.lockf(self._lock_file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock_file, fcntl.LOCK_UN)

    def take(self, ae_title: str, address: str, listed: bool) -> Place | str:
        """Return a place, or the reason why there is none."""
        title, host = ae_title.encode("ascii", "replace")[:16], address.encode("ascii", "replace")[:46]
        with self.locked():
            taken = self._taken()
            rivals, reason = self._rivals(taken, title, host, listed)
            if reason:
                slot = _silent(rivals)
            else:
                used = {one.slot for one in taken}
                slot = next(n for n in range(self.limits.total) if n not in used)
            if slot is None:
                return reason
            self._serial += 1
            values = (os.getpid(), self._serial, time.monotonic(), False, listed, title, host)
            _SLOT.pack_into(self.memory, slot * _SLOT.size, *values)
            return Place(self, slot, self._serial)

    def _rivals(self, taken: list[_Taken], title: bytes, host: bytes, listed: bool) -> tuple[list[_Taken], str]:
        """Return who shares a limit that is reached, and its name; no reason: nothing stands in the way."""
        same_title = [one for one in taken if _text(one.ae_title) == title and one.listed == listed]
        if len(same_title) >= self.limits.per_source:
            return same_title, "too many associations of this source"
        strangers = [one for one in taken if not one.listed]
        if not listed:
            same_host = [one for one in strangers if _text(one.address) == host]
            if len(same_host) >= self.limits.per_address:
                return same_host, "too many associations of this address"
            if len(strangers) >= self.limits.for_strangers:
                return strangers, "too many associations of unlisted sources"
        if len(taken) >= self.limits.total:
            return taken, "too many associations"
        return [], ""

    def _taken(self) -> list[_Taken]:
        found = []
        for slot in range(self.limits.total):
            pid, _, *rest = _SLOT.unpack_from(self.memory, slot * _SLOT.size)
            if pid:
                found.append(_Taken(slot, pid, *rest))
        return found

    def count(self) -> int:
        """Return how many places are taken."""
        return len(self._taken())

    def close(self) -> None:
        """Give lock and memory back."""
        self._lock_file.close()
        self.memory.close()

    def forget(self, pid: int) -> None:
        """Free the places of a process that died."""
        with self.locked():
            for one in self._taken():
                if one.pid == pid:
                    self.memory[one.slot * _SLOT.size : (one.slot + 1) * _SLOT.size] = _FREE


def _silent(rivals: list[_Taken]) -> int | None:
    """Return the slot of the one that is silent longest of those that never brought anything."""
    before = time.monotonic() - SILENT_S
    idle = [one for one in rivals if not one.brought and one.heard < before]
    return min(idle, key=lambda one: one.heard).slot if idle else None


def _text(padded: bytes) -> bytes:
    return padded.rstrip(b"\0")

"""Received instances on disk, under names that nothing in them chose. The durable file is the receiver's journal.

`ab/<sha256 of the SOP Instance UID>.<length>.<crc32>.<ordinal>.dcm`: length and checksum stand in the name, so that
they are as durable as the name itself and a torn file is known. A file appears under its name by link(), which never
overwrites; it is acknowledged only after fsync(file) and fsync(folder).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import InstanceRefused, Missing
from dicom_nodes.contexts import is_uid

GIB = 1024**3
NAME = re.compile(r"[0-9a-f]{64}\.(\d+)\.([0-9a-f]{8})\.\d+\.dcm")


@dataclass(frozen=True)
class SpoolFile:
    """One durable file; `new` is False when the same bytes lay there already."""

    path: str  # relative to the spool
    bytes: int
    new: bool


class Spool:
    """The folder of received instances."""

    def __init__(self, folder: Path, reserve_gb: float) -> None:
        self.folder = folder
        self.reserve_bytes = int(reserve_gb * GIB)
        self.parts = folder / "part"
        self.aside = folder / "aside"

    def claim(self) -> Any:
        """Return an open lock that says: this spool has its receiver. Raises Missing when another holds it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = open(self.folder / "receiver.lock", "w")  # noqa: SIM115 - held until the receiver ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise Missing(f"another receiver has the spool {self.folder}; stop that one first") from None
        except OSError as error:
            raise Missing(f"the spool {self.folder} is not writable: {error.strerror}") from None
        return lock

    def prepare(self) -> None:
        """Make the folders, durably, and drop the parts that a crash left. Raises Missing."""
        try:
            for name in ("part", "aside", *(f"{n:02x}" for n in range(256))):
                (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o750)
            for part in self.parts.iterdir():
                part.unlink()
            _sync_folder(self.folder)
        except OSError as error:
            raise Missing(f"the spool {self.folder} is not writable: {error.strerror}") from None

    def is_low(self) -> bool:
        """Return whether free space is below the reserve."""
        return shutil.disk_usage(self.folder).free < self.reserve_bytes

    def keep(self, sop_instance_uid: str, content: bytes) -> SpoolFile:
        """Make `content` durable. Raises InstanceRefused with the status to answer."""
        if not is_uid(sop_instance_uid):
            raise InstanceRefused("the SOP Instance UID is not a UID", InstanceRefused.UNREADABLE)
        if self.is_low():
            raise InstanceRefused("free space is below spool.reserve_gb", InstanceRefused.OUT_OF_STORAGE)
        try:
            return self._keep(hashlib.sha256(sop_instance_uid.encode()).hexdigest(), content)
        except OSError as error:
            raise InstanceRefused(f"cannot write: {error.strerror}", InstanceRefused.OUT_OF_STORAGE) from None

    def _keep(self, digest: str, content: bytes) -> SpoolFile:
        part = self.parts / uuid.uuid4().hex
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            _write_all(descriptor, content)
            name, new = self._link(part, digest, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            part.unlink()
        if not new:
            _sync_file(self.folder / name)
        _sync_folder((self.folder / name).parent)
        return SpoolFile(name, len(content), new)

    def _link(self, part: Path, digest: str, content: bytes) -> tuple[str, bool]:
        for ordinal in range(1000):
            name = f"{digest[:2]}/{digest}.{len(content)}.{zlib.crc32(content):08x}.{ordinal}.dcm"
            try:
                os.link(part, self.folder / name)
            except FileExistsError:
                if (self.folder / name).read_bytes() == content:
                    return name, False
            else:
                return name, True
        raise InstanceRefused("too many contents under one checksum", InstanceRefused.UNREADABLE)

    def files(self) -> Iterator[str]:
        """Yield the relative path of every file under a final name."""
        for bucket in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            for name in os.listdir(bucket):
                yield f"{bucket.name}/{name}"

    def is_whole(self, path: str) -> bool:
        """Return whether a file has the length and checksum that its name says."""
        named = NAME.fullmatch(Path(path).name)
        if named is None:
            return False
        content = (self.folder / path).read_bytes()
        return len(content) == int(named[1]) and f"{zlib.crc32(content):08x}" == named[2]

    def set_aside(self, path: str) -> None:
        """Move a torn or foreign file out of the way; nothing is deleted."""
        os.replace(self.folder / path, self.aside / Path(path).name)

    def remove(self, path: str) -> None:
        """Delete one file; one that is gone already is fine."""
        (self.folder / path).unlink(missing_ok=True)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    _sync_file(path)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that it is whole under its name or not there at all, and survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, path)
    for folder in (path.parent, *list(path.parent.parents)[:2]):  # the two above may be new as well
        _sync_folder(folder)

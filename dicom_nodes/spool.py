"""Received instances on disk, under names that nothing in them chose. The durable file is the receiver's journal.

`ab/<sha256 of the SOP Instance UID>.<length>.<crc32>.<ordinal>.dcm`: length and checksum stand in the name, so that
they are as durable as the name itself and a torn file is known. A file appears under its name by link(), which never
overwrites; it is acknowledged only after fsync(file) and fsync(folder). Acknowledged messages of other services lie
under `message/` in the same way.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any

from isal.isal_zlib import crc32  # the checksum of zlib, eight times as fast

from appliance.errors import InstanceRefused, Missing
from appliance.log import logger
from dicom_nodes.contexts import may_be_kept

GIB = 1024**3
CHUNK = 1024 * 1024  # bytes read at once
SPACE_S = 0.2  # between two looks at the free space
SPACE_EVERY = 64 * 1024 * 1024  # bytes written between two looks at the free space
CLAIM_S = 5.0  # how long the children of a killed receiver may take to end
NAME = re.compile(r"[0-9a-f]{64}\.(\d+)\.([0-9a-f]{8})\.\d+\.(dcm|msg)")
MESSAGES = "message"
NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)  # what file systems without O_TMPFILE say


@dataclass(frozen=True)
class SpoolFile:
    """One durable file; `new` is False when the same bytes lay there already."""

    path: str  # relative to the spool
    bytes: int
    new: bool


class Part:
    """A file that is being received. It has no name that anybody looks for until it is kept.

    Where the file system can (O_TMPFILE), it has no name at all: that saves a tenth of the cost of an instance, and
    nothing is left of it by a process that dies.
    """

    def __init__(self, folder: str, number: int) -> None:
        self.bytes = 0
        self.crc32 = 0
        self._named = ""
        try:
            self.descriptor = os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o640)
        except OSError as error:
            if error.errno not in NO_NAMELESS_FILES:
                raise
            self._named = f"{folder}/{os.getpid()}.{number}.{os.urandom(4).hex()}"
            self.descriptor = os.open(self._named, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        self.path = self._named or f"/proc/self/fd/{self.descriptor}"

    def write(self, pieces: Sequence[memoryview | bytes]) -> None:
        """Append the pieces. Raises OSError."""
        size, checksum = 0, self.crc32
        for piece in pieces:
            checksum = crc32(piece, checksum)
            size += len(piece)
        written = os.writev(self.descriptor, pieces)
        if written < size:  # a signal, or the disk is nearly full: the rest one by one, until it fails in words
            _write_all(self.descriptor, b"".join(pieces)[written:])
        self.bytes += size
        self.crc32 = checksum

    def link(self, path: str) -> None:
        """Give the file a name. Raises FileExistsError, never overwrites."""
        os.link(self.path, path, src_dir_fd=self.descriptor, follow_symlinks=True)  # the directory is not looked at

    def close(self) -> None:
        """Drop what was received; a file that was kept has its own name by now."""
        os.close(self.descriptor)
        if self._named:
            os.unlink(self._named)


class Spool:
    """The folder of received instances."""

    def __init__(self, folder: Path, reserve_gb: float) -> None:
        self.folder = folder
        self.reserve_bytes = int(reserve_gb * GIB)
        self.parts = folder / "part"
        self._root = f"{folder}/"  # text: an instance must not cost the making of paths
        self.aside = folder / "aside"
        self._numbers = itertools.count()
        self._folders: dict[str, int] = {}  # open descriptors of folders that instances go to
        self._looked_at, self._low = -SPACE_S, False

    def claim(self) -> Any:
        """Return an open lock that says: this spool has its receiver. Raises Missing when another holds it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = open(self.folder / "receiver.lock", "w")  # noqa: SIM115 - held until the receiver ends
        except OSError as error:
            raise Missing(f"the spool {self.folder} is not writable: {error.strerror}") from None
        deadline = time.monotonic() + CLAIM_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.close()
                    raise Missing(f"another receiver has the spool {self.folder}; stop that one first") from None
                time.sleep(0.1)
            else:
                return lock

    def prepare(self) -> None:
        """Make the folders, durably, and drop the parts that a crash left. Raises Missing."""
        try:
            for name in ("part", "aside", MESSAGES, *(f"{n:02x}" for n in range(256))):
                (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o750)
            for part in self.parts.iterdir():
                part.unlink()
            _sync_file(self.folder)
        except OSError as error:
            raise Missing(f"the spool {self.folder} is not writable: {error.strerror}") from None

    def hold_folders(self) -> None:
        """Open the folders that instances go to, once: each of them is synced for each of its instances."""
        for name in (f"{n:02x}" for n in range(256)):
            self._folders[name] = os.open(self._root + name, os.O_RDONLY)

    def is_low(self) -> bool:
        """Return whether free space is below the reserve; looked at a few times a second."""
        if time.monotonic() - self._looked_at > SPACE_S:
            self._looked_at, self._low = time.monotonic(), self._is_low()
        return self._low

    def _is_low(self) -> bool:
        try:
            return shutil.disk_usage(self.folder).free < self.reserve_bytes
        except OSError as error:  # a disk that does not answer takes nothing either
            logger().error("spool_does_not_answer", cause=error.strerror)
            return True

    def _sync_folder_of(self, name: str) -> None:
        folder = name.partition("/")[0]
        descriptor = self._folders.get(folder)
        if descriptor is None:
            _sync_file(self._root + folder)
        else:
            os.fsync(descriptor)

    def begin(self, sop_instance_uid: str) -> Part:
        """Open a part for an instance. Raises InstanceRefused with the status to answer."""
        if not may_be_kept(sop_instance_uid):
            raise InstanceRefused("the SOP Instance UID is not a UID", InstanceRefused.UNREADABLE)
        if self.is_low():
            raise InstanceRefused("free space is below spool.reserve_gb", InstanceRefused.OUT_OF_STORAGE)
        try:
            return Part(f"{self._root}part", next(self._numbers))
        except OSError as error:
            raise _cannot_write(error) from None

    def keep(self, sop_instance_uid: str, content: bytes) -> SpoolFile:
        """Make a small instance durable at once. Raises InstanceRefused with the status to answer."""
        part = self.begin(sop_instance_uid)
        try:
            part.write([content])
            return self.keep_part(part, sop_instance_uid)
        except OSError as error:
            raise _cannot_write(error) from None
        finally:
            part.close()

    def keep_part(self, part: Part, sop_instance_uid: str) -> SpoolFile:
        """Make a whole instance durable under its name. Raises InstanceRefused with the status to answer."""
        digest = hashlib.sha256(sop_instance_uid.encode()).hexdigest()
        return self._keep(part, f"{digest[:2]}/{digest}", "dcm")

    def keep_message(self, part: Part) -> SpoolFile:
        """Make a whole message durable. Raises InstanceRefused."""
        return self._keep(part, f"{MESSAGES}/{hashlib.sha256(uuid.uuid4().bytes).hexdigest()}", "msg")

    def _keep(self, part: Part, stem: str, suffix: str) -> SpoolFile:
        try:
            name, new = self._link(part, stem, suffix)
            if new:
                self._sync(part, name)
            else:
                self._replace(part, name)
        except OSError as error:
            raise _cannot_write(error) from None
        return SpoolFile(name, part.bytes, new)

    def _sync(self, part: Part, name: str) -> None:
        """Make file and name durable. A name whose file failed to is taken back: a second fsync would say nothing."""
        path = self._root + name
        try:
            os.fsync(part.descriptor)
            self._sync_folder_of(name)
        except OSError:
            os.unlink(path)
            raise

    def _replace(self, part: Part, name: str) -> None:
        """Put our own synced bytes where equal ones lie: those may be another's, not yet synced, or about to go."""
        path = self._root + name
        os.fsync(part.descriptor)
        beside = f"{self._root}part/{uuid.uuid4().hex}"
        part.link(beside)
        os.replace(beside, path)
        self._sync_folder_of(name)

    def _link(self, part: Part, stem: str, suffix: str) -> tuple[str, bool]:
        for ordinal in range(1000):
            name = f"{stem}.{part.bytes}.{part.crc32:08x}.{ordinal}.{suffix}"
            try:
                part.link(self._root + name)
            except FileExistsError:
                if _same_bytes(part.path, self._root + name):
                    return name, False
            else:
                return name, True
        raise InstanceRefused("too many contents under one checksum", InstanceRefused.UNREADABLE)

    def files(self) -> Iterator[str]:
        """Yield the relative path of every instance under a final name."""
        for bucket in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            for name in os.listdir(bucket):
                yield f"{bucket.name}/{name}"

    def messages(self) -> Iterator[str]:
        """Yield the relative path of every kept message."""
        for name in sorted(os.listdir(self.folder / MESSAGES)):
            yield f"{MESSAGES}/{name}"

    def is_whole(self, path: str) -> bool:
        """Return whether a file has the length and checksum that its name says."""
        named = NAME.fullmatch(Path(path).name)
        if named is None:
            return False
        length = total = 0
        with open(self.folder / path, "rb") as stream:
            while piece := stream.read(CHUNK):
                length, total = length + len(piece), crc32(piece, total)
        return length == int(named[1]) and f"{total:08x}" == named[2]

    def set_aside(self, path: str) -> None:
        """Move a torn or foreign file out of the way; nothing is deleted."""
        os.replace(self.folder / path, self.aside / Path(path).name)

    def remove(self, path: str) -> None:
        """Delete one file; one that is gone already is fine."""
        (self.folder / path).unlink(missing_ok=True)

    def remove_old(self, path: str, before: float) -> None:
        """Delete a file unless it came again since `before` (seconds since 1970): then somebody relies on it."""
        try:
            if os.stat(self._root + path).st_mtime < before:
                os.unlink(self._root + path)
        except FileNotFoundError:
            return

    def clear_aside(self, before: float) -> int:
        """Delete what was set aside before a moment; returns how many files."""
        old = [entry.path for entry in os.scandir(self.aside) if entry.stat().st_mtime < before]
        for path in old:
            os.unlink(path)
        return len(old)


def _cannot_write(error: OSError) -> InstanceRefused:
    return InstanceRefused(f"cannot write: {error.strerror}", InstanceRefused.OUT_OF_STORAGE)


def _same_bytes(one: str, other: str) -> bool:
    with open(one, "rb") as a, open(other, "rb") as b:
        while True:
            piece = a.read(CHUNK)
            if piece != b.read(CHUNK):
                return False
            if not piece:
                return True


def _write_all(descriptor: int, content: bytes | mmap) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_file(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes | mmap) -> None:
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
        _sync_file(folder)

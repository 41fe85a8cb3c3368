"""A package as a folder or a .zip file: its files written to a folder of our own, or refused. Never written elsewhere.

Whoever may write into the source may change it at any moment: what is checked and kept is the copy. Names, kinds and
sizes are judged before a byte is written, and what is written is counted: a small archive cannot become a large disk.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from appliance.errors import Missing, PackageRefused
from models.package import MANIFEST, MAX_BYTES, SIGNATURE, check_path

MAX_MEMBERS = 1000
CHUNK = 1 << 20
PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # opens no link, and never waits for a pipe
DAMAGED = (
    zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError,
    zlib.error, struct.error,
)  # fmt: skip  # all that zipfile was seen to raise, or may


@contextmanager
def unpacked(source: Path, staging: Path) -> Iterator[Path]:
    """Yield a new folder below `staging` with the files of a folder or .zip; what is left of it is removed after."""
    place = staging / uuid.uuid4().hex
    try:
        if source.is_dir():
            copy_folder(source, place)
        elif source.is_file():
            unpack(source, place)
        else:
            raise Missing(f"there is no package at {source}: name a folder or a .zip file")
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def copy_folder(source: Path, place: Path) -> None:
    """Copy the plain files below `source` to `place`, a new folder; PackageRefused for links, devices or too much."""
    place.mkdir(parents=True, mode=0o750)
    met, left = 0, MAX_BYTES
    for where, folders, files, at in os.fwalk(source.resolve(), onerror=_unreadable):
        below = Path(where).relative_to(source.resolve())
        met += len(folders) + len(files)
        if met > MAX_MEMBERS:
            raise _too_much(source.name)
        for name in folders:
            if stat.S_ISLNK(os.lstat(name, dir_fd=at).st_mode):
                raise _no_plain_file(below / name)
            (place / below / name).mkdir(mode=0o750)
        for name in files:
            left -= copy_plain(at, name, below, place / below / name, left)


def copy_plain(at: int, name: str, below: Path, target: Path, most: int) -> int:
    """Copy the plain file `name` of the open folder `at` and return its size; PackageRefused beyond `most` bytes."""
    try:
        opened = os.open(name, PLAIN, dir_fd=at)
    except OSError as error:
        raise _no_plain_file(below / name) from error
    written = 0
    with os.fdopen(opened, "rb") as reading, target.open("xb") as writing:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise _no_plain_file(below / name)
        while chunk := reading.read(CHUNK):
            written += len(chunk)
            if written > most:
                raise _too_much(str(below / name))
            writing.write(chunk)
    return written


def _unreadable(error: OSError) -> None:
    raise PackageRefused(f"{error.filename}: cannot be read ({error.strerror})") from error


def _no_plain_file(name: Path) -> PackageRefused:
    return PackageRefused(f"{name}: links and devices are not allowed in a package, and every file must be readable")


def _too_much(name: str) -> PackageRefused:
    return PackageRefused(f"{name}: a package has at most {MAX_MEMBERS} files and {MAX_BYTES} bytes")


def unpack(source: Path, place: Path) -> None:
    """Write the members of a .zip below `place`, a new folder; PackageRefused for anything that is no package."""
    try:
        with zipfile.ZipFile(source) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
            check_members(members)
            place.mkdir(parents=True, mode=0o750)
            left = MAX_BYTES
            for one in members:
                left -= write_member(archive, one, place / one.filename, left)
    except DAMAGED as error:
        why = next(iter(str(error).splitlines()), "")
        raise PackageRefused(f"{source.name}: cannot be unpacked as a .zip ({type(error).__name__}: {why})") from error


def check_members(members: list[zipfile.ZipInfo]) -> None:
    """Raise PackageRefused for too many, too large, linked, encrypted, doubled, stray or oddly packed members."""
    if len(members) > MAX_MEMBERS or sum(one.file_size for one in members) > MAX_BYTES:
        raise PackageRefused(f"the .zip has more than {MAX_MEMBERS} files or {MAX_BYTES} bytes")
    names = [one.filename for one in members]
    if len(set(names)) != len(names):
        raise PackageRefused("the .zip holds a file twice")
    for one in members:
        if one.filename not in (MANIFEST, SIGNATURE):
            check_path(one.filename)
        mode = one.external_attr >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise PackageRefused(f"{one.filename}: links and devices are not allowed in a package")
        if one.flag_bits & 1:
            raise PackageRefused(f"{one.filename}: is encrypted")
        if one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise PackageRefused(f"{one.filename}: is neither stored nor deflated")
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    if both := sorted(folders & set(names)):
        raise PackageRefused(f"{both[0]}: is a file and a folder in the .zip")


def write_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, most: int) -> int:
    """Write one member and return its size; PackageRefused if it is more than `most` bytes or says another size."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    written = 0
    with archive.open(member) as reading, path.open("xb") as writing:
        while chunk := reading.read(CHUNK):
            written += len(chunk)
            if written > min(most, member.file_size):
                raise PackageRefused(f"{member.filename}: is larger than the .zip says")
            writing.write(chunk)
    return written

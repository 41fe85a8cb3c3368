"""A package as a .zip file: its members written to a folder of their own, or refused. It must never write elsewhere.

Names, kinds and sizes are judged before a byte is written, and what is written is counted: a small archive cannot
become a large disk.
"""

from __future__ import annotations

import shutil
import stat
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import Missing, PackageRefused
from models.package import MANIFEST, MAX_BYTES, SIGNATURE, check_path

MAX_MEMBERS = 1000
CHUNK = 1 << 20


@contextmanager
def unpacked(source: Path, staging: Path) -> Iterator[Path]:
    """Yield the folder of a package given as a folder or as a .zip of one; what was unpacked is removed afterwards."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise Missing(f"there is no package at {source}: name a folder or a .zip file")
    place = staging / uuid.uuid4().hex
    try:
        unpack(source, place)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


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
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise PackageRefused(f"{source.name}: not a readable .zip file ({type(error).__name__})") from error


def check_members(members: list[zipfile.ZipInfo]) -> None:
    """Raise PackageRefused for too many, too large, linked, encrypted, doubled or stray members."""
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

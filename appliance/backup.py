"""`curie backup` and `curie restore`: one .tar of catalogue, spool, results, training set, packages and keys.

The catalogue is copied first: a file that its rows name may be gone by then (retention), none can be missing that came
later, for the receiver adopts those. It must never be restored over anything.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, Any

from appliance.catalogue import Catalogue, copying
from appliance.catalogue.connection import HEAD
from appliance.errors import Missing, SettingsError
from appliance.settings import Settings

FORMAT = "petite-curie backup 1"
MANIFEST, ROWS, SETTINGS = "MANIFEST.json", "catalogue.db", "curie.toml"
IMAGES = "spool"
# made anew by whoever needs it
LEFT_OUT = ("engines", "broker", "run", "catalogue.lock", "up.lock", "sidecar/engine", "sidecar/work", "sidecar/trial")
PIECE = 1 << 20


@dataclass
class Contents:
    """What a backup holds: SHA-256 by name; `gone` counts files that retention took away meanwhile."""

    files: dict[str, str] = field(default_factory=dict)
    size: int = 0
    gone: int = 0


def write(settings: Settings, file: Path, catalogue: Catalogue, target: Path, *, images: bool = True) -> Contents:
    """Write a backup to `target`, which appears when it is whole; `file` is the curie.toml that goes with it."""
    partial = target.with_name(f".{target.name}.partial")
    contents = Contents()
    with tempfile.TemporaryDirectory(prefix="curie-backup-") as folder:
        rows = Path(folder) / ROWS
        copying.save(catalogue, rows)
        opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds keys
        with os.fdopen(opened, "wb") as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, ROWS, rows, contents)
            _add(archive, SETTINGS, file, contents)
            for path in held_files(settings, images=images):
                _add(archive, f"data/{path.relative_to(settings.data_dir).as_posix()}", path, contents)
            _add_manifest(archive, settings, contents, images=images)
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
    partial.rename(target)
    return contents


def held_files(settings: Settings, *, images: bool) -> Iterator[Path]:
    """Yield what cannot be made anew, in order; the catalogue's own files are copied apart."""
    left_out = {*LEFT_OUT, *(() if images else (IMAGES,))}
    rows = settings.catalogue_url.removeprefix("sqlite:///")
    for folder, folders, names in os.walk(settings.data_dir):
        place = PurePosixPath(Path(folder).relative_to(settings.data_dir).as_posix())
        folders[:] = sorted(one for one in folders if str(place / one) not in left_out)
        for path in (Path(folder) / name for name in sorted(names)):
            plain = path.is_file() and not path.is_symlink()  # sockets are not
            if plain and str(place / path.name) not in left_out and not str(path).startswith(rows):
                yield path


def _add(archive: tarfile.TarFile, name: str, path: Path, contents: Contents) -> None:
    try:
        opened = open(path, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        contents.gone += 1
        return
    with opened as file:
        told = os.fstat(file.fileno())
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = told.st_size, int(told.st_mtime), told.st_mode & 0o700
        hashed = _Hashed(file, told.st_size)
        archive.addfile(member, hashed)  # it reads, no more is asked of it
    contents.files[name] = hashed.digest.hexdigest()
    contents.size += told.st_size


class _Hashed:
    """Reads so many bytes of a file that others may be appending to, and hashes what it gave."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left, self.digest = file, size, hashlib.sha256()

    def read(self, size: int = PIECE) -> bytes:
        piece = self.file.read(min(size, self.left))
        self.left -= len(piece)
        self.digest.update(piece)
        return piece


def _add_manifest(archive: tarfile.TarFile, settings: Settings, contents: Contents, *, images: bool) -> None:
    told = {
        "format": FORMAT, "version": version("petite-curie"), "schema": HEAD, "appliance": settings.appliance_uid,
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "images": images, "files": contents.files,
    }  # fmt: skip
    content = json.dumps(told, indent=1).encode()
    member = tarfile.TarInfo(MANIFEST)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, io.BytesIO(content))


# --- and back ---


def look_at(source: Path) -> dict[str, Any]:
    """Read a whole backup and return its manifest. Raises Missing with the first file that is not as it was."""
    found: dict[str, str] = {}
    told: dict[str, Any] = {}
    try:
        with tarfile.open(source, "r:") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is None or not _is_plain(member.name):
                    raise Missing(f"{source}: {member.name!r} has no place in a backup")
                if member.name == MANIFEST:
                    told = json.loads(file.read())
                else:
                    hashed = _Hashed(file, member.size)
                    while hashed.read():
                        pass
                    found[member.name] = hashed.digest.hexdigest()
    except (OSError, tarfile.TarError, ValueError) as error:
        raise Missing(f"{source} is no backup of `curie backup`, or is cut off ({type(error).__name__})") from None
    if told.get("format") != FORMAT:
        raise Missing(f"{source} is no backup of `curie backup`, or is cut off (it has no manifest)")
    wrong = sorted(name for name in {*found, *told["files"]} if found.get(name) != told["files"].get(name))
    if wrong:
        raise Missing(f"{source}: {wrong[0]} is not what was backed up ({len(wrong)} such); take another backup")
    return told


def _is_plain(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def restore(settings: Settings, source: Path, open_empty: Any) -> dict[str, Any]:
    """Put a backup into an empty data_dir and an empty catalogue, which `open_empty` opens; returns the manifest.

    Everything is looked at first. Raises SettingsError where the backup is of another appliance, Missing where anything
    is there already.
    """
    told = look_at(source)
    if told.get("appliance") != settings.appliance_uid:  # opt-outs, held-back cases and UIDs are made from it
        raise SettingsError(
            f"the backup is of another appliance than the settings; write into curie.toml, [appliance]: "
            f'uid = "{told.get("appliance")}"'
        )
    filled = [one.name for one in settings.data_dir.glob("*") if one.name not in ("catalogue.lock", "up.lock")]
    if filled:
        raise Missing(f"{settings.data_dir} holds {filled[0]} already: a backup goes into an empty data_dir alone")
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=settings.data_dir) as folder:
        with tarfile.open(source, "r:") as archive:
            archive.extractall(folder, filter="data")
        catalogue = open_empty()
        try:
            copying.fill(catalogue, Path(folder) / ROWS)
        finally:
            catalogue.close()
        held = Path(folder) / "data"
        for one in sorted(held.iterdir()) if held.is_dir() else []:
            shutil.move(one, settings.data_dir / one.name)
    return told

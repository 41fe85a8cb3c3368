"""A model package on disk: a folder whose every byte is named in MANIFEST.json, which is signed.

It must never execute, import or unpickle anything it finds in a package, and never import torch or onnx.
Nothing at all is parsed before the signature (a stranger's package) or the digest (one that is installed) was found
right, and nothing but MANIFEST.json before every file's size and SHA-256 have been checked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from appliance.errors import Missing, PackageRefused
from appliance.study import SeriesRequirement
from models.closed import Closed
from models.declaration import Declaration
from models.signing import Trust, signed, signer

MANIFEST = "MANIFEST.json"
SIGNATURE = "MANIFEST.sig"  # signs MANIFEST.json, so it cannot stand in it
REQUIRED = ("package.json", "model.onnx", "weights.safetensors", "card.md")
MAX_BYTES = 4 * 2**30  # of a whole package
MAX_JSON_BYTES = 4 * 2**20
Value = TypeVar("Value", bound=Closed)


class FileEntry(Closed):
    """One file of the package, its path relative to the folder with forward slashes."""

    path: str
    size: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileList(Closed):
    """MANIFEST.json."""

    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Package:
    """A package whose files are what its manifest says."""

    folder: Path
    manifest: Declaration  # package.json
    digest: str  # SHA-256 of MANIFEST.json: names exactly these bytes
    signer: str = ""  # id of the trusted key that signed it, "" where nobody was asked or it is unsigned

    @property
    def id(self) -> str:
        """Name of the package, e.g. "brain-structures"."""
        return self.manifest.id

    @property
    def version(self) -> str:
        """Version, e.g. "1.2.0"."""
        return self.manifest.version

    @property
    def name(self) -> str:
        """Package and version, e.g. "brain-structures@1.2.0"."""
        return f"{self.id}@{self.version}"

    @property
    def requirements(self) -> dict[str, SeriesRequirement]:
        """What the package needs of the series of each input, in the order of the network's channels."""
        return {one.name: one.requirement.as_series_requirement() for one in self.manifest.inputs}

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights, as the manifest lists it."""
        listed = parse(FileList, read_manifest(self.folder), MANIFEST)
        return next((one.sha256 for one in listed.files if one.path == "weights.safetensors"), "")

    def path(self, name: str) -> Path:
        """Return the path of one of the package's files."""
        return self.folder / name


def load_signed(folder: Path, trust: Trust) -> Package:
    """Return the package of a stranger, its signature checked first; PackageRefused says what is wrong."""
    raw, signatures = read_manifest(folder), None
    if os.path.lexists(folder / SIGNATURE):
        signatures = read_plain(folder / SIGNATURE)
    return _checked(folder, raw, signer(raw, signatures, trust))


def load_package(folder: Path, digest: str | None = None) -> Package:
    """Return the package in `folder`, whose MANIFEST.json has this `digest`; PackageRefused says what is wrong.

    Without a digest only for what this software made or ships itself: nobody vouches for it then.
    """
    raw = read_manifest(folder)
    if digest is not None and hashlib.sha256(raw).hexdigest() != digest:
        raise PackageRefused(f"{folder}: is not the package that was installed there; install it again")
    return _checked(folder, raw, "")


def _checked(folder: Path, raw: bytes, signed_by: str) -> Package:
    listed = parse(FileList, raw, MANIFEST)
    if raw != canonical(listed):
        raise PackageRefused(f"{MANIFEST}: not in canonical form (sorted keys and paths, no spaces)")
    check_files(folder, listed.files)
    declared = parse(Declaration, (folder / "package.json").read_bytes(), "package.json")
    return Package(folder, declared, hashlib.sha256(raw).hexdigest(), signed_by)


def read_manifest(folder: Path) -> bytes:
    """Return the bytes of MANIFEST.json; PackageRefused if it is absent, a link or too large."""
    return read_plain(folder / MANIFEST)


def read_plain(path: Path) -> bytes:
    """Return the bytes of a small plain file; PackageRefused if it is absent, a link or too large."""
    if path.is_symlink() or not path.is_file():
        raise PackageRefused(f"{path.name}: not there, or not a plain file, in {path.parent}")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise PackageRefused(f"{path.name}: larger than {MAX_JSON_BYTES} bytes")
    return path.read_bytes()


def parse(kind: type[Value], raw: bytes, name: str) -> Value:
    """Return the JSON text `raw` of the file `name` as `kind`; PackageRefused with the first fault."""
    try:
        found = kind.model_validate_json(raw)
        json.loads(raw, object_pairs_hook=_once)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise PackageRefused(f"{name}: {where + ': ' if where else ''}{fault['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise PackageRefused(f"{name}: {error}") from error
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's keys and values; ValueError for a key that stands twice, of which readers take either."""
    twice = sorted(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    if twice:
        raise ValueError(f"the key {twice[0]!r} stands twice")
    return dict(pairs)


def canonical(listed: FileList) -> bytes:
    """Return the one byte form of a file list: keys and paths sorted, no spaces, UTF-8, no line end."""
    ordered = {"files": sorted(listed.model_dump()["files"], key=lambda entry: str(entry["path"]))}
    return json.dumps(ordered, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check_files(folder: Path, entries: tuple[FileEntry, ...]) -> None:
    """Raise PackageRefused unless the folder holds exactly `entries`, each with its size and digest."""
    for entry in entries:
        check_path(entry.path)
    names = [entry.path for entry in entries]
    if len(set(names)) != len(names):
        raise PackageRefused(f"{MANIFEST}: names a file twice")
    check_presence(set(files_in(folder)) - {MANIFEST, SIGNATURE}, set(names))
    if sum(entry.size for entry in entries) > MAX_BYTES:
        raise PackageRefused(f"{MANIFEST}: the package is larger than {MAX_BYTES} bytes")
    for entry in entries:
        check_bytes(folder, entry)


def check_path(path: str) -> None:
    """Raise PackageRefused for a path that is absolute, leaves the folder or is written in two ways."""
    pure = PurePosixPath(path)
    plain = path == pure.as_posix() and "\\" not in path and "\0" not in path and path not in ("", ".")
    if pure.is_absolute() or ".." in pure.parts or not plain:
        raise PackageRefused(f"{path!r}: a path in {MANIFEST} must be relative and stay in the package")
    if path in (MANIFEST, SIGNATURE):
        raise PackageRefused(f"{path}: cannot be listed in {MANIFEST}")


def files_in(folder: Path) -> Iterator[str]:
    """Yield the relative path of every file below `folder`; PackageRefused for links and devices."""
    for where, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(where, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise PackageRefused(f"{relative}: links and devices are not allowed in a package")
            if path.is_file():
                yield relative


def check_presence(found: set[str], listed: set[str]) -> None:
    """Raise PackageRefused for a file that is missing, or there without being listed."""
    for name in sorted(listed - found):
        raise PackageRefused(f"{name}: listed in {MANIFEST} but not there")
    for name in sorted(found - listed):
        raise PackageRefused(f"{name}: there but not listed in {MANIFEST}")
    for name in REQUIRED:
        if name not in listed:
            raise PackageRefused(f"{name}: every package must have it")


def check_bytes(folder: Path, entry: FileEntry) -> None:
    """Raise PackageRefused unless the file has the size and SHA-256 that are listed."""
    path = folder / entry.path
    size = path.stat().st_size
    if size != entry.size:
        raise PackageRefused(f"{entry.path}: has {size} bytes, {MANIFEST} says {entry.size}")
    if file_digest(path) != entry.sha256:
        raise PackageRefused(f"{entry.path}: its SHA-256 is not the one in {MANIFEST}")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sign_package(folder: Path, key: Ed25519PrivateKey) -> str:
    """Write MANIFEST.json over the files as they are and add `key`'s signature; return the digest.

    The package is checked first as it will be when it is loaded; signatures of another manifest are dropped.
    """
    if not folder.is_dir():
        raise Missing(f"there is no folder {folder}")
    before = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b""
    digest = write_manifest(folder)
    load_package(folder, digest)
    raw = read_manifest(folder)
    others = (folder / SIGNATURE).read_bytes() if before == raw and (folder / SIGNATURE).is_file() else b""
    (folder / SIGNATURE).write_bytes(signed(raw, others, key))
    return digest


def write_manifest(folder: Path) -> str:
    """Write MANIFEST.json over the files of `folder` and return the package's digest."""
    names = sorted(set(files_in(folder)) - {MANIFEST, SIGNATURE})
    entries = tuple(
        FileEntry(path=name, size=(folder / name).stat().st_size, sha256=file_digest(folder / name)) for name in names
    )
    raw = canonical(FileList(files=entries))
    (folder / MANIFEST).write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()

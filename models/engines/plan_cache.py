"""Plans that were built here and agreed: kept by what they were built from, on this host, for this host.

A plan is code: it must never be taken from anywhere but this folder, nor be read unless it belongs to this user, is
closed to others and has the SHA-256 that its marker names. The weights are not part of the key: the marker names them.
For each key and weights there are KEY-WEIGHTS.plan and KEY-WEIGHTS.json, the marker, written last.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from appliance.log import logger

KEPT = 2  # plans of one package and precision: the current and the previous
MAX_PLAN_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Gpu:
    """What of a GPU and its driver a plan is tied to."""

    name: str
    capability: str  # e.g. "9.0"
    processors: int
    driver: str
    cuda: str


@dataclass(frozen=True)
class PlanKey:
    """Everything a plan was made of but the weights."""

    structure: str  # structure_hash of the graph
    precision: str  # "f32", or the recipe of half_graph.py
    provider: str
    version: str
    gpu: Gpu
    profile: tuple[int, int, int]
    flags: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Marker:
    """Says that a plan is whole and agreed with the golden cases."""

    plan_key: str
    weights_sha256: str  # of model.onnx
    plan_sha256: str
    package: str  # id and precision: what two are kept of
    refittable: bool = False
    parity: list[dict[str, Any]] = field(default_factory=list)


class PlanCache:
    """A folder of plans; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the lock of one key: who else wants to build the same waits."""
        if self.folder is None:
            yield
            return
        with os.fdopen(_opened(self.folder / f"{key}.lock", os.O_RDWR | os.O_CREAT), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def ready(self, key: str, weights: str) -> bytes | None:
        """Return the plan for exactly these weights, None if there is none that may be used."""
        marker = self._marker(self._path(key, weights, "json"))
        if marker is None or (marker.plan_key, marker.weights_sha256) != (key, weights):
            return None
        return self._plan(marker)

    def to_refit(self, key: str) -> bytes | None:
        """Return the newest plan of this key that takes other weights, None if there is none."""
        for marker in self._markers(f"{key[:32]}-*.json"):
            if marker.refittable and marker.plan_key == key and (plan := self._plan(marker)) is not None:
                return plan
        return None

    def keep(self, plan: bytes, marker: Marker) -> None:
        """Write a plan, then its marker, each in one move; of its package the two used last stay."""
        if self.folder is None:
            return
        for suffix, content in (("plan", plan), ("json", json.dumps(asdict(marker), indent=1).encode())):
            self.write(self._path(marker.plan_key, marker.weights_sha256, suffix).name, content)
        same = [one for one in self._markers("*.json") if one.package == marker.package]
        for old in same[KEPT:]:
            self.drop(old.plan_key, old.weights_sha256)

    def drop(self, key: str, weights: str) -> None:
        """Remove a plan, its marker first."""
        if self.folder is None:
            return
        for suffix in ("json", "plan"):
            self._path(key, weights, suffix).unlink(missing_ok=True)
        if not any(self.folder.glob(f"{key[:32]}-*.json")):
            (self.folder / kernels_name(key)).unlink(missing_ok=True)

    def drop_plan(self, key: str, plan: bytes) -> None:
        """Remove a plan that is known by its bytes, as one to refit is."""
        digest = hashlib.sha256(plan).hexdigest()
        for marker in self._markers(f"{key[:32]}-*.json"):
            if (marker.plan_key, marker.plan_sha256) == (key, digest):
                self.drop(key, marker.weights_sha256)

    def write(self, name: str, content: bytes) -> None:
        """Write one file of the cache, for this user alone, in one move."""
        if self.folder is None:
            return
        part = self.folder / f".{name}.{os.getpid()}"
        part.unlink(missing_ok=True)
        try:
            with os.fdopen(_opened(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / name)
        finally:
            part.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        """Return one file of the cache; nothing if it is absent, another's, open to others, or a link."""
        if self.folder is None:
            return b""
        try:
            file = os.fdopen(_opened(self.folder / name, os.O_RDONLY), "rb")
        except OSError:
            return b""
        with file:
            about = os.fstat(file.fileno())
            ours = about.st_uid == os.geteuid() and not stat.S_IMODE(about.st_mode) & 0o077
            return file.read(MAX_PLAN_BYTES) if ours and stat.S_ISREG(about.st_mode) else b""

    def _plan(self, marker: Marker) -> bytes | None:
        path = self._path(marker.plan_key, marker.weights_sha256, "plan")
        plan = self.read(path.name)
        if hashlib.sha256(plan).hexdigest() != marker.plan_sha256:
            logger().warning("plan_refused", plan=path.name, reason="its SHA-256 is not the marker's")
            self.drop(marker.plan_key, marker.weights_sha256)
            return None
        with suppress(OSError):
            os.utime(path.with_suffix(".json"))  # used last
        return plan

    def _markers(self, pattern: str) -> list[Marker]:
        """Return the markers of some plans, the one used last first."""
        if self.folder is None:
            return []
        paths = sorted(self.folder.glob(pattern), key=_used_ns, reverse=True)
        return [marker for path in paths if (marker := self._marker(path)) is not None]

    def _marker(self, path: Path) -> Marker | None:
        try:
            marker = Marker(**json.loads(self.read(path.name)))
            named = self._path(marker.plan_key, marker.weights_sha256, "json")
        except (ValueError, TypeError):
            return None
        return marker if named == path else None

    def _path(self, key: str, weights: str, suffix: str) -> Path:
        return (self.folder or Path()) / f"{key[:32]}-{weights[:32]}.{suffix}"


def kernels_name(key: str) -> str:
    """Return the name of the file of kernels that TensorRT-RTX compiled for plans of this key."""
    return f"{key[:32]}.kernels"


def _used_ns(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _opened(path: Path, how: int) -> int:
    """Return a file descriptor; a link is never followed."""
    return os.open(path, how | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

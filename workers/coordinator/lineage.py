"""Every round that counted, on disk: data_dir/federation/PACKAGE/CYCLE/round-NN/{weights.safetensors, record.json}.

A round is a folder that appears whole or not at all, so that whoever was killed goes on where it stood. It must never
change a round that is written.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from appliance.errors import Missing
from models.federation import Floats, Weights, digest_of, from_bytes, to_bytes

WEIGHTS, RECORD, CYCLE = "weights.safetensors", "record.json", "cycle.json"
State = Literal["running", "published", "refused"]


@dataclass(frozen=True)
class CycleRecord:
    """One cycle of rounds: from which package, how many rounds, and how it ended."""

    id: str
    package: str
    version: str
    package_digest: str
    rounds: int
    started_at: str
    state: State = "running"
    why: str = ""  # it was refused
    candidate: str = ""  # version that was published
    sites: tuple[str, ...] = ()  # that were invited when it began
    took: tuple[str, ...] = ()  # sites that have the candidate


@dataclass(frozen=True)
class RoundRecord:
    """What one round was: round 0 is what the cycle begins from."""

    cycle: str
    round: int
    base: str  # digest of the weights that were asked about
    digest: str  # of the weights it led to
    sites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # that counted: cases, norm, bytes, metrics
    refused: Mapping[str, str] = field(default_factory=dict)
    abstained: Mapping[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    epsilon: Mapping[str, float] = field(default_factory=dict)  # spent so far, by site
    bytes_down: int = 0  # to one site
    seconds: float = 0.0
    written_at: str = ""

    def counts(self) -> dict[str, int]:
        """Return how many sites counted, abstained, were refused or were not heard."""
        found = {"counted": self.sites, "abstained": self.abstained, "refused": self.refused, "silent": self.silent}
        return {outcome: len(sites) for outcome, sites in found.items()}


class Lineage:
    """The cycles of one package."""

    def __init__(self, data_dir: Path, package: str) -> None:
        self.package = package
        self.folder = data_dir / "federation" / package

    def cycles(self) -> list[CycleRecord]:
        """Return all cycles, oldest first."""
        found = [_cycle(path.read_text()) for path in sorted(self.folder.glob(f"cycle-*/{CYCLE}"))]
        return sorted(found, key=lambda one: one.started_at)

    def cycle(self, cycle: str) -> CycleRecord:
        """Return one cycle. Raises Missing."""
        path = self.folder / cycle / CYCLE
        if not path.is_file():
            raise Missing(f"{self.package} has no cycle {cycle}; `curie federation rounds` shows what there is")
        return _cycle(path.read_text())

    def unfinished(self) -> CycleRecord | None:
        """Return the cycle that goes on, None if there is none."""
        return next((one for one in self.cycles() if one.state == "running"), None)

    def begin(self, cycle: CycleRecord, weights: Weights) -> None:
        """Write a new cycle with the weights it begins from."""
        digest = digest_of(weights)
        self.add(weights, RoundRecord(cycle.id, 0, digest, digest))
        self.change(cycle)

    def change(self, cycle: CycleRecord, **changed: Any) -> CycleRecord:
        """Write a cycle's record anew, with some fields changed; return it."""
        cycle = replace(cycle, **changed)
        _write(self.folder / cycle.id / CYCLE, json.dumps(asdict(cycle), indent=2).encode())
        return cycle

    def add(self, weights: Weights, record: RoundRecord) -> None:
        """Write a round: a folder that is complete when it has its name."""
        place = self.folder / record.cycle / f"round-{record.round:02d}"
        partial = place.with_name(f".{place.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o750)
        record = replace(record, written_at=datetime.now(UTC).isoformat(timespec="seconds"))
        _write(partial / WEIGHTS, to_bytes(weights))
        _write(partial / RECORD, json.dumps(asdict(record), indent=2).encode())
        partial.rename(place)
        _sync(place.parent)

    def rounds(self, cycle: str) -> list[RoundRecord]:
        """Return the rounds of a cycle, round 0 first."""
        return [_round(path.read_text()) for path in sorted((self.folder / cycle).glob(f"round-*/{RECORD}"))]

    def weights(self, record: RoundRecord) -> dict[str, Floats]:
        """Return the weights a round led to. Raises Missing where they are not what its record says."""
        path = self.folder / record.cycle / f"round-{record.round:02d}" / WEIGHTS
        found = from_bytes(path.read_bytes())
        if digest_of(found) != record.digest:
            raise Missing(f"{path} is not what the round wrote; restore it from a backup or begin a new cycle")
        return found

    def last_accepted(self, package_digest: str) -> dict[str, Floats] | None:
        """Return the weights of the newest round that counted, of cycles that began from this package; None without."""
        for cycle in reversed(self.cycles()):
            counted = [one for one in self.rounds(cycle.id) if one.round > 0]
            if cycle.package_digest == package_digest and counted:
                return self.weights(counted[-1])
        return None

    @contextmanager
    def alone(self, cycle: str) -> Iterator[None]:
        """Wait until no other process writes to this cycle; the lock goes with the process."""
        with open(self.folder / cycle / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def name_of(moment: datetime) -> str:
    """Return the name of a cycle that begins now: no other ever has it."""
    return f"cycle-{moment:%Y%m%dT%H%M%S}-{os.urandom(3).hex()}"


def packages_with_lineage(data_dir: Path) -> list[str]:
    """Return the packages of which there are cycles."""
    return sorted({path.parents[1].name for path in (data_dir / "federation").glob(f"*/cycle-*/{CYCLE}")})


def next_version(version: str) -> str:
    """Return the version with its patch one higher."""
    numbers = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version)
    assert numbers, version
    return f"{numbers[1]}.{numbers[2]}.{int(numbers[3]) + 1}"


def _cycle(text: str) -> CycleRecord:
    told = json.loads(text)
    return CycleRecord(**{**told, "sites": tuple(told["sites"]), "took": tuple(told.get("took", ()))})


def _round(text: str) -> RoundRecord:
    told = json.loads(text)
    return RoundRecord(**{**told, "silent": tuple(told["silent"])})


def _write(path: Path, content: bytes) -> None:
    """Write a file whole: a temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

"""The hash chain over events: each link is the SHA-256 of the one before and of one event. Pure: rows in, digests out.

It must never hold anything of a patient: events have ids, counts and reasons alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

BEGINNING = hashlib.sha256(b"petite-curie audit 1").digest()  # what the first link follows


@dataclass(frozen=True)
class Sealed:
    """One event with its place in the chain; `event` is None where it is gone."""

    number: int
    seq: int
    digest: bytes
    event: Mapping[str, Any] | None


@dataclass(frozen=True)
class Flaw:
    """One place where the chain does not hold."""

    number: int
    seq: int
    text: str


def record_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as it is hashed and exported."""
    at: datetime = event["at"]
    return {
        "seq": event["seq"],
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "kind": event["kind"],
        "study": event["study_instance_uid"],
        "job": event["job_id"],
        "detail": event["detail"],
    }


def link(before: bytes, record: Mapping[str, Any]) -> bytes:
    """Return the digest that seals a record behind another digest."""
    told = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(before + told.encode()).digest()


def flaws(chain: Iterable[Sealed], before: bytes = BEGINNING, number: int = 0) -> Iterator[Flaw]:
    """Yield what is wrong with a chain that goes on after link `number`, whose digest is `before`.

    A changed row breaks its own link alone: the next one is judged by the digest that stands there.
    """
    for one in chain:
        if one.number != number + 1:
            yield Flaw(one.number, one.seq, f"links {number + 1} to {one.number - 1} are gone")
        elif one.event is None:
            yield Flaw(one.number, one.seq, "its event is gone")
        elif link(before, record_of(one.event)) != one.digest:
            yield Flaw(one.number, one.seq, "it is not what was sealed")
        before, number = one.digest, one.number

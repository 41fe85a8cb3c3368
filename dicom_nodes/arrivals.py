"""What the receiver tells the indexer: associations that open, live and end, files and messages that it kept.

An arrival is one JSON line on its way between processes. It carries names of files and of peers, never content.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class AssociationOpened:
    """A peer's association was accepted."""

    id: str
    ae_title: str
    address: str


@dataclass(frozen=True)
class AssociationEnded:
    """An association was released, or aborted."""

    id: str
    aborted: bool


@dataclass(frozen=True)
class AssociationsAlive:
    """These associations are open still: their leases move on."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class FileKept:
    """An instance was acknowledged; `path` is relative to the spool."""

    path: str
    association_id: str = ""
    adopted: bool = False  # found by a scan: nothing if it has a row already


@dataclass(frozen=True)
class MessageKept:
    """An N-service request was acknowledged; `path` is relative to the spool."""

    path: str


Arrival = AssociationOpened | AssociationEnded | AssociationsAlive | FileKept | MessageKept
KINDS: dict[str, type[Any]] = {
    "opened": AssociationOpened,
    "ended": AssociationEnded,
    "alive": AssociationsAlive,
    "file": FileKept,
    "message": MessageKept,
}
NAMES = {kind: name for name, kind in KINDS.items()}


def encode_arrival(arrival: Arrival) -> bytes:
    """Return the arrival as one line of JSON, with its newline."""
    return json.dumps({"kind": NAMES[type(arrival)], **vars(arrival)}, separators=(",", ":")).encode() + b"\n"


def decode_arrival(line: bytes) -> Arrival:
    """Return what `encode_arrival` wrote. Raises ValueError."""
    try:
        values = json.loads(line)
        kind = KINDS[values.pop("kind")]
        if "ids" in values:
            values["ids"] = tuple(values["ids"])
        arrival: Arrival = kind(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("not an arrival") from error
    if not _is_sound(arrival):
        raise ValueError("not an arrival")
    return arrival


def _is_sound(arrival: Arrival) -> bool:
    for name, value in asdict(arrival).items():
        if name == "ids":
            if not all(isinstance(one, str) for one in value):
                return False
        elif not isinstance(value, bool if name in ("aborted", "adopted") else str):
            return False
    return True

"""The life of a package version, and what a change of it needs. Values and decisions only, no I/O.

installed: its files are here and vouched for · candidate: it passed the gate on this host · shadow: it runs beside
the active version and its results stay here · active: its results go to the PACS · retired: it runs no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from appliance.errors import SettingsError

# from state → states it may change to; "retired" → "active" is a rollback
TRANSITIONS: dict[str, frozenset[str]] = {
    "installed": frozenset({"candidate", "retired"}),
    "candidate": frozenset({"installed", "shadow", "active", "retired"}),
    "shadow": frozenset({"installed", "candidate", "active", "retired"}),
    "active": frozenset({"retired"}),
    "retired": frozenset({"installed", "candidate", "active"}),
}
STATES = tuple(TRANSITIONS)
LONGEST_NAME, LONGEST_REASON = 64, 2000


@dataclass(frozen=True)
class VersionRow:
    """One version of a package on this appliance."""

    package: str
    version: str
    digest: str
    signer: str
    state: str
    installed_at: datetime
    state_at: datetime

    @property
    def name(self) -> str:
        """Package and version, e.g. "brain-structures@1.2.0"."""
        return f"{self.package}@{self.version}"


@dataclass(frozen=True)
class Change:
    """What a person wants of a package, and whether it is done or waits for a second person."""

    package: str
    kind: str  # shipped | promote | rollback | retire
    before: str
    after: str
    person: str
    reason: str
    asked_at: datetime
    second_person: str
    done_at: datetime | None


def version_before(changes: Sequence[Change], active: str | None) -> str | None:
    """Return the version that a rollback goes to, None if there is none. `changes`: newest first.

    Promotes are followed back one by one. A version that a rollback left is skipped until somebody promotes it again.
    Without an active version it is the one that was active last.
    """
    chain: list[str] = []
    left: set[str] = set()
    for change in reversed([one for one in changes if one.done_at is not None and one.after]):
        if change.kind == "rollback":
            left.add(change.before)
            while chain and chain[-1] != change.after:
                chain.pop()
        if chain[-1:] != [change.after]:
            chain.append(change.after)
        left.discard(change.after)
    return next((one for one in reversed(chain) if one != active and one not in left), None)


def version_order(version: str) -> tuple[int, ...]:
    """Return numbers that sort versions: 1.10.0 comes after 1.9.0."""
    return tuple(int(part) for part in version.split("."))


def require_change(row: VersionRow, state: str) -> None:
    """Raise SettingsError unless this version may change to `state`, with the way to get there."""
    if state in TRANSITIONS[row.state]:
        return
    if row.state == state:
        raise SettingsError(f"{row.name} is {state} already")
    way = "; `curie models build` puts it through the gate first" if row.state == "installed" else ""
    raise SettingsError(f"{row.name} is {row.state}, and such a version cannot become {state}{way}")


def require_gate(row: VersionRow, *, passed: bool) -> None:
    """Raise SettingsError unless this version was found good on this appliance, whatever state it went through."""
    if not passed:
        raise SettingsError(f"{row.name} never passed the gate here; `curie models build {row.name}` puts it through")


def signed_by_person(person: str, reason: str) -> tuple[str, str]:
    """Return name and reason without blanks around; SettingsError unless a person and a reason are given."""
    person, reason = person.strip(), reason.strip()
    if not person or len(person) > LONGEST_NAME or not person.isprintable():
        raise SettingsError(f"--by needs the name of a person, at most {LONGEST_NAME} characters")
    if not reason or len(reason) > LONGEST_REASON or not reason.isprintable():
        raise SettingsError(f"--reason needs a sentence, at most {LONGEST_REASON} characters")
    return person, reason

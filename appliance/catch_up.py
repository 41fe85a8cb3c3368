"""Which studies were missed: what a source has, against what is held. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta


@dataclass(frozen=True)
class Held:
    """What the catalogue has of a study."""

    images: int  # whatever was received of it, kept or not
    results: int  # of ours that a destination has: a source may count them


def days(since: date, until: date) -> Iterator[date]:
    """Yield every day from one to the other, both among them."""
    for number in range((until - since).days + 1):
        yield since + timedelta(days=number)


def why_missed(instances: int | None, held: Held | None) -> str:
    """Return why a study is to be fetched, "" where it is not; `instances`: what the source counts, if it does."""
    if held is None or not held.images:
        return "never came"
    if instances is not None and held.images + held.results < instances:
        return f"{held.images} of {instances} images came"
    return ""


def wanted(modalities: Sequence[str], only: Sequence[str]) -> bool:
    """Tell whether a study has one of the modalities that are asked for; a source that names none leaves it open."""
    named = [one for one in modalities if one]
    return not only or not named or bool(set(named) & set(only))


def chosen(
    found: Mapping[str, tuple[int | None, Sequence[str]]], held: Mapping[str, Held], only: Sequence[str]
) -> dict[str, str]:
    """Return the studies to fetch, by UID with the reason."""
    reasons = {
        uid: why_missed(count, held.get(uid)) for uid, (count, modalities) in found.items() if wanted(modalities, only)
    }
    return {uid: reason for uid, reason in reasons.items() if reason}

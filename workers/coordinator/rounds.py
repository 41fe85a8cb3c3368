"""One cycle of federated rounds: ask the sites, judge what they answer, join what counts, write it down.

It must never know how bytes travel: an Exchange carries them. Every site that does not count is named with the reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from appliance.catalogue import events, open_catalogue
from appliance.errors import RoundRefused
from appliance.federation_settings import Coordinator
from appliance.log import logger
from appliance.settings import Settings
from models.federation import Floats, Rules, Update, Weights, believed, decode, digest_of, join
from workers.asking import Ask, ask_bytes, reason_of
from workers.coordinator.lineage import CycleRecord, Lineage, RoundRecord

LONGEST_REFUSAL = 300
LAST_RATE = 0.1  # share of the learning rate in the last round of a cycle
ROUNDS_OF_A_JOB = 5  # the engine takes a site that was away back with the next job


@dataclass(frozen=True)
class Answer:
    """What one site sent back; `trouble` where it sent nothing of ours."""

    site: str
    content: bytes
    trouble: str = ""


class Exchange(Protocol):
    """Carries one question to all sites and their answers back."""

    def sites(self) -> list[str]:
        """Return the names of the sites that can be asked now."""

    def ask(self, request: bytes, sites: list[str], deadline: Callable[[], float]) -> Iterable[Answer]:
        """Yield answers as they come, until all came or time.monotonic() passes `deadline()`, which may move."""


@dataclass(frozen=True)
class Timing:
    """How long a round waits, in seconds."""

    round_s: float  # for anybody
    straggler_s: float  # for the others, once enough have answered


@dataclass
class Hearing:
    """What was heard in one round."""

    updates: list[Update] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    abstained: dict[str, str] = field(default_factory=dict)

    def heard(self) -> set[str]:
        """Return the sites that said anything."""
        return {one.site for one in self.updates} | set(self.refused) | set(self.abstained)


def rules_of(settings: Coordinator) -> Rules:
    """Return what an update must keep to, as the settings say."""
    return Rules(
        clip_norm=settings.clip_norm,
        min_sites=settings.min_sites,
        aggregation=settings.aggregation,
        momentum=settings.momentum,
    )


def rate_of(first: float, number: int, rounds: int) -> float:
    """Return the learning rate of a round: over a cycle it falls by half a cosine to a tenth."""
    gone = (number - 1) / max(1, rounds - 1)
    return first * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * gone)))


def about(cycle: CycleRecord, number: int, settings: Coordinator) -> dict[str, Any]:
    """Return the fields of a round's question."""
    return {
        "cycle": cycle.id,
        "round": number,
        "package": cycle.package,
        "version": cycle.version,
        "package_digest": cycle.package_digest,
        "steps": settings.steps,
        "batch": settings.batch,
        "learning_rate": rate_of(settings.learning_rate, number, cycle.rounds),
        "proximal": settings.proximal,
        "clip_norm": settings.clip_norm,
        "seed": number,
    }


def run_cycle(
    cycle: CycleRecord,
    lineage: Lineage,
    exchange: Exchange,
    settings: Coordinator,
    *,
    held: Callable[[RoundRecord], None] | None = None,
) -> bool:
    """Hold the rounds of a cycle that are still to come, as many as one job may; returns whether those were all.

    `held` is told of each that was written. Raises RoundRefused where too few updates count.
    """
    timing = Timing(settings.round_timeout_s, settings.straggler_s)
    done = lineage.rounds(cycle.id)
    weights = lineage.weights(done[-1])
    step = _last_step(done, lineage)
    last = min(cycle.rounds, done[-1].round + ROUNDS_OF_A_JOB)
    for number in range(done[-1].round + 1, last + 1):
        rules = rules_of(settings)
        weights, step, record = one_round(weights, step, about(cycle, number, settings), rules, exchange, timing)
        lineage.add(weights, record)
        if held is not None:
            held(record)
        told = {"cycle": cycle.id, "round": number, "sites": len(record.sites), "refused": dict(record.refused)}
        logger().info("round_done", **told, abstained=dict(record.abstained), silent=list(record.silent))
    return last == cycle.rounds


@contextmanager
def on_record(cycle: CycleRecord, settings: Settings) -> Iterator[Callable[[RoundRecord], None]]:
    """Yield what records each round in the catalogue, with how many sites counted; a refused one is recorded too."""
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)

    def record(kind: str, **detail: Any) -> None:
        with catalogue.write() as connection:
            events.record(connection, kind, package=cycle.package, cycle=cycle.id, **detail)

    try:
        yield lambda one: record("round_held", round=one.round, sites=one.counts())
    except RoundRefused:
        record("round_refused")
        raise
    finally:
        catalogue.close()


def _last_step(done: list[RoundRecord], lineage: Lineage) -> dict[str, Floats] | None:
    """Return the step of the last round, which momentum carries on; None before the first."""
    if len(done) < 2:
        return None
    before, after = lineage.weights(done[-2]), lineage.weights(done[-1])
    return {name: after[name] - before[name] for name in after}


def one_round(
    weights: Weights,
    step: Weights | None,
    fields: Mapping[str, Any],
    rules: Rules,
    exchange: Exchange,
    timing: Timing,
) -> tuple[dict[str, Floats], dict[str, Floats], RoundRecord]:
    """Return new weights, the step that led to them and the record. Raises RoundRefused where too few count."""
    began = time.monotonic()
    request, seen, ask = ask_bytes(weights, fields)
    sites = exchange.sites()
    hearing = collect(ask, seen, request, sites, rules, exchange, timing)
    counted, doubted = believed(hearing.updates, rules)
    hearing.refused |= doubted
    silent = tuple(sorted(set(sites) - hearing.heard()))
    try:
        joined = join(weights, counted, rules, step)
    except RoundRefused as error:
        raise RoundRefused(f"round {ask.round}: {error}; {_in_words(hearing, silent)}") from None
    record = RoundRecord(
        cycle=ask.cycle, round=ask.round, base=ask.base, digest=digest_of(joined.weights),
        sites={one.site: _of(one, hearing.sizes) for one in counted}, refused=hearing.refused,
        abstained=hearing.abstained, silent=silent,
        epsilon={one.site: one.metrics["epsilon"] for one in counted if "epsilon" in one.metrics},
        bytes_down=len(request), seconds=round(time.monotonic() - began, 3),
    )  # fmt: skip
    return joined.weights, joined.step, record


def collect(
    ask: Ask, seen: Weights, request: bytes, sites: list[str], rules: Rules, exchange: Exchange, timing: Timing
) -> Hearing:
    """Return what was heard until all answered, time ran out, or enough answered and the stragglers' time is over."""
    hearing, last = Hearing(), time.monotonic() + timing.round_s
    enough_at: list[float] = []

    def deadline() -> float:
        return min([last, *(at + timing.straggler_s for at in enough_at)])

    for answer in exchange.ask(request, sites, deadline):
        hear(answer, ask, seen, hearing)
        if len(hearing.updates) >= rules.min_sites and not enough_at:
            enough_at.append(time.monotonic())
    return hearing


def hear(answer: Answer, ask: Ask, seen: Weights, hearing: Hearing) -> None:
    """Put one answer where it belongs: updates, abstained or refused."""
    if answer.site in hearing.heard():
        return  # a site is heard once
    reason = reason_of(answer.content)
    if answer.trouble:
        hearing.refused[answer.site] = answer.trouble[:LONGEST_REFUSAL]
    elif reason is not None:
        hearing.abstained[answer.site] = reason
    else:
        _judge(answer, ask, seen, hearing)


def _judge(answer: Answer, ask: Ask, seen: Weights, hearing: Hearing) -> None:
    try:
        update = decode(answer.content, ask.question(answer.site), seen)
    except RoundRefused as error:
        hearing.refused[answer.site] = str(error)[:LONGEST_REFUSAL]
        return
    hearing.updates.append(update)
    hearing.sizes[answer.site] = len(answer.content)


def _of(update: Update, sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "cases": update.cases,
        "norm": round(update.norm, 6),
        "bytes": sizes[update.site],
        "metrics": dict(update.metrics),
    }


def _in_words(hearing: Hearing, silent: tuple[str, ...]) -> str:
    said = [f"{site} refused: {why}" for site, why in sorted(hearing.refused.items())]
    said += [f"{site} abstained: {why}" for site, why in sorted(hearing.abstained.items())]
    said += [f"{site} was not heard" for site in silent]
    return "; ".join(said) or "no site was there"

"""The tables of federated learning in curie.toml: a site's share, and the central side. It must never read a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from appliance.setting_types import Port, Seconds, Table


def _hours(value: str) -> str:
    clock = r"([01]\d|2[0-3]):[0-5]\d"
    if not re.fullmatch(f"{clock}-{clock}", value):
        raise ValueError('hours are written as "19:00-06:00"; "00:00-00:00" is the whole day')
    return value


def _coordinator(value: str) -> str:
    if not re.fullmatch(r"grpcs://[A-Za-z0-9.-]+:\d{1,5}", value):
        raise ValueError('a coordinator is written as "grpcs://fl.example.org:8002"')
    return value


def _schedule(value: str) -> str:
    if value:
        from appliance.schedule import parse

        parse(value)
    return value


KEEP_CASES_DAYS = 1825  # five years, also where there is no [federation]
PackageName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]


class Federation(Table):
    """What this hospital gives to federated rounds, and when."""

    coordinator: Annotated[str, AfterValidator(_coordinator)]
    kit: Path  # folder of the certificates that the coordinator gave
    hours: Annotated[str, AfterValidator(_hours)] = "19:00-06:00"  # local time
    min_new_cases: int = Field(default=20, ge=0)
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda:\d+)$")
    epsilon_budget: float = Field(default=8.0, gt=0)
    privacy: Literal["clip", "dp"] = "clip"
    noise: float = Field(default=1.0, gt=0)  # multiplier of the noise where privacy is dp
    wire: Literal["f16", "int8"] = "f16"  # precision of what leaves
    personal: bool = False  # normalisation layers stay here
    keep_cases_days: int = Field(default=KEEP_CASES_DAYS, ge=1)  # labelled cases, corrections among them
    max_minutes: float = Field(default=120.0, gt=0)  # of training in one round
    packages: tuple[PackageName, ...] = ()
    shadow_studies: int = Field(default=20, ge=1)  # a candidate runs in shadow for so many studies …
    shadow_days: float = Field(default=14.0, gt=0)  # … or days, whichever comes first
    auto_promote: bool = False  # true: what was no worse is promoted without a person
    correction_limit: float = Field(default=0.3, gt=0, le=1)  # share of corrected results that takes a version back
    drift_limit: float = Field(default=1.5, gt=0)  # standard deviations that a mean may move, likewise

    @property
    def target(self) -> str:
        """Host and port of the coordinator."""
        return self.coordinator.removeprefix("grpcs://")


class Coordinator(Table):
    """The central side: when rounds are held, of what, and who is believed."""

    host: str = "localhost"  # by which the sites find it; stands in its certificate
    port: Port = 8002
    schedule: Annotated[str, AfterValidator(_schedule)] = "0 2 * * 0"  # cron expression in local time; "": by command
    packages: tuple[PackageName, ...] = ()
    min_sites: int = Field(default=3, ge=1)
    aggregation: Literal["weighted-mean", "trimmed-mean", "momentum"] = "weighted-mean"
    rounds: int = Field(default=3, ge=1, le=20)  # of one cycle
    round_timeout_s: Seconds = 7200
    straggler_s: Seconds = 600  # waited for others once min_sites have answered
    gather_s: Seconds = 20  # waited for invited sites to connect before a cycle begins
    clip_norm: float = Field(default=5.0, gt=0)
    steps: int = Field(default=60, ge=1, le=100_000)  # of local training in one round
    batch: int = Field(default=2, ge=1, le=64)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    proximal: float = Field(default=0.01, ge=0, le=100)
    momentum: float = Field(default=0.5, ge=0, lt=1)  # of the server's step, where aggregation is momentum

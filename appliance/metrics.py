"""`/metrics` for Prometheus: counts and times of the flow, without a study, a patient or an address in any label.

Counters begin with the process and follow the catalogue's rows; gauges are read when somebody asks. It writes nothing.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy import Connection

from appliance.catalogue import Catalogue, audit, gauges, overview, processes
from appliance.catalogue.connection import now
from appliance.objective import Answered, answered, whole
from appliance.settings import Settings

BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)
LOOKED_AT = timedelta(days=7)  # of turnaround
ANSWERS_S = 300.0  # between two looks at so many studies
ENDS = ("job_completed", "job_unsuitable", "job_failed", "job_cancelled", "job_superseded")
# what alerts wait for: it stands at 0 before it happens, else Prometheus misses the first
RARE = ("result_rejected", "commitment_taken_back", "trial_fell_back", "instance_conflicted")
# kind of event → how a round ended; a site's own answer says it itself
ROUNDS = {"round_answered": "", "round_held": "held", "round_refused": "too_few"}
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """What one process tells Prometheus."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings, self.catalogue = settings, catalogue
        self.following = threading.Lock()
        with catalogue.read() as connection:
            self.image, self.event = gauges.newest(connection)
        self.registry = CollectorRegistry()
        own = self.registry
        self.images = Counter("curie_instances", "Images that were indexed", ["state"], registry=own)
        self.bytes = Counter("curie_instance_bytes", "Bytes of images that were indexed", registry=own)
        self.events = Counter("curie_events", "Rows of the record of events, by kind", ["kind"], registry=own)
        self.jobs = Counter("curie_jobs_ended", "Jobs that came to an end", ["package", "outcome"], registry=own)
        self.steps = Histogram(
            "curie_step_seconds",
            "Seconds of each step of a completed job",
            ["package", "step"],
            buckets=BUCKETS,
            registry=own,
        )
        self.whole = Histogram(
            "curie_turnaround_seconds", "Seconds from the last image to the results being held by the PACS",
            ["package"], buckets=BUCKETS, registry=own,
        )  # fmt: skip
        self.rounds = Counter(
            "curie_federation_rounds", "Federated rounds: how this site answered, or how they ended at the coordinator",
            ["package", "outcome"], registry=own,
        )  # fmt: skip
        self.answers = Counter(
            "curie_federation_answers", "What sites answered in the rounds of this coordinator",
            ["package", "outcome"], registry=own,
        )  # fmt: skip
        self.now = Now(settings, self.registry)
        for kind in RARE:
            self.events.labels(kind)
        for route in settings.routes:
            self.jobs.labels(route.package.partition("@")[0], "failed")

    def exposition(self) -> bytes:
        """Return the text that Prometheus reads (version 0.0.4 of its format)."""
        with self.following:
            self._follow()
            with self.catalogue.read() as connection:
                self.now.read(connection, now())
            return generate_latest(self.registry)

    def _follow(self) -> None:
        """Count what came since the last time."""
        with self.catalogue.read() as connection:
            for package in gauges.packages(connection):
                self.jobs.labels(package, "failed")
            until, _ = gauges.newest(connection)
            for row in gauges.images_after(connection, self.image, until):
                self.images.labels(row.state).inc(row.images)
                self.bytes.inc(int(row.bytes or 0))
            self.image = until
            while rows := gauges.events_after(connection, self.event):
                for row in rows:
                    self.events.labels(row.kind).inc()
                    if row.kind in ENDS:
                        self._count_end(connection, row.kind.removeprefix("job_"), row.job_id)
                    elif row.kind in ROUNDS:
                        self._count_round(row.kind, row.detail)
                self.event = rows[-1].seq

    def _count_end(self, connection: Connection, outcome: str, job_id: str) -> None:
        package = gauges.package_of(connection, job_id)
        self.jobs.labels(package, outcome).inc()
        if outcome != "completed":
            return
        timings = overview.timings_of(connection, job_id)
        for step, seconds in timings.items():
            self.steps.labels(package, step.removesuffix("_s")).observe(seconds)
        self.whole.labels(package).observe(whole(timings))

    def _count_round(self, kind: str, detail: Mapping[str, Any]) -> None:
        package = detail["package"]
        self.rounds.labels(package, detail["outcome"] if kind == "round_answered" else ROUNDS[kind]).inc()
        for outcome, sites in detail.get("sites", {}).items():
            self.answers.labels(package, outcome).inc(sites)


class Now:
    """Gauges: how things are when somebody asks."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self.settings = settings
        self._answered_at = 0.0

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"curie_{name}", text, labels, registry=registry)

        self.up = gauge("process_healthy", "1: the process beats", "host", "name")
        self.refused = gauge("refused", "What receivers refused since they started", "host", "name", "reason")
        self.ended = gauge("associations", "Associations that ended since receivers started", "host", "name", "outcome")
        self.jobs = gauge("jobs_waiting", "Clinical jobs that are not at their end", "package", "state")
        self.queue_age = gauge("queue_age_seconds", "Age of the oldest clinical job that is queued")
        self.results = gauge("results_waiting", "Results on their way", "destination", "state")
        self.result_age = gauge("outbox_age_seconds", "Age of the oldest result that waits", "destination")
        self.engine = gauge(
            "engine", "1: an active version runs on this engine", "package", "version", "host", "device", "engine",
            "precision",
        )  # fmt: skip
        self.memory = gauge(
            "engine_memory_bytes", "Memory that an active version was measured to need", "package", "host"
        )
        self.gpu = gauge("gpu_memory_bytes", "Memory of a worker's GPU, whoever uses it", "host", "gpu", "kind")
        self.free = gauge("free_bytes", "Free space where the data lie")
        self.reserve = gauge("reserve_bytes", "Space below which images are refused")
        self.answer = gauge("answer_seconds", "Turnaround of the last seven days", "route", "quantile")
        self.share = gauge("answer_share", "Share of the turnaround, by step", "route", "step")
        self.objective = gauge("objective_seconds", "What a route promises for 95 of 100 studies", "route")
        self.breached = gauge("objective_breached", "1: more than one in twenty took longer", "route")
        self.unsealed = gauge("audit_unsealed_events", "Events that dispatch has yet to seal")

    def read(self, connection: Connection, at: datetime) -> None:
        """Set all gauges; what is not there any more has no value."""
        self._processes(connection, at)
        self._waiting(connection, at)
        self._engines(connection)
        if time.monotonic() - self._answered_at > ANSWERS_S or not self._answered_at:
            self._answered_at = time.monotonic()
            for one in promises(self.settings, connection, at):
                self._answer(one)
        self.unsealed.set(audit.behind(connection))
        self.free.set(shutil.disk_usage(self.settings.data_dir).free)
        self.reserve.set(self.settings.spool.reserve_gb * 1024**3)

    def _processes(self, connection: Connection, at: datetime) -> None:
        self.up.clear()
        self.refused.clear()
        self.ended.clear()
        self.gpu.clear()
        for one in processes.listing(connection, at):
            self.up.labels(one["host"], one["name"]).set(one["healthy"])
            for reason, count in one["detail"].get("refused", {}).items():
                self.refused.labels(one["host"], one["name"], reason).set(count)
            for outcome, count in one["detail"].get("ended", {}).items():
                self.ended.labels(one["host"], one["name"], outcome).set(count)
            for gpu in one["detail"].get("gpus", ()):
                for kind in ("used", "total"):
                    self.gpu.labels(one["host"], str(gpu["number"]), kind).set(gpu[f"{kind}_bytes"])

    def _waiting(self, connection: Connection, at: datetime) -> None:
        self.jobs.clear()
        queued = []
        for one in gauges.jobs_waiting(connection):
            self.jobs.labels(one.name, one.state).set(one.count)
            queued += [(at - one.oldest).total_seconds()] if one.state == "queued" else []
        self.queue_age.set(max(queued, default=0.0))
        self.results.clear()
        self.result_age.clear()
        for one in gauges.results_waiting(connection):
            self.results.labels(one.name, one.state).set(one.count)
            if one.state == "waiting":
                self.result_age.labels(one.name).set((at - one.oldest).total_seconds())

    def _engines(self, connection: Connection) -> None:
        self.engine.clear()
        self.memory.clear()
        for one in gauges.engines(connection):
            self.engine.labels(one.package, one.version, one.host, one.device, one.engine, one.precision).set(1)
            if one.memory_mb is not None:
                self.memory.labels(one.package, one.host).set(one.memory_mb * 1e6)

    def _answer(self, one: Answered) -> None:
        self.answer.labels(one.route, "0.5").set(one.p50_s)
        self.answer.labels(one.route, "0.95").set(one.p95_s)
        for step, part in one.shares.items():
            self.share.labels(one.route, step.removesuffix("_s")).set(part)
        if one.objective_s is not None:
            self.objective.labels(one.route).set(one.objective_s)
            self.breached.labels(one.route).set(one.breached)


def promises(settings: Settings, connection: Connection, at: datetime) -> Iterator[Answered]:
    """Yield how long the studies of each route took in the last seven days."""
    found: dict[str, list[dict[str, float]]] = {}
    for route, timings in gauges.turnarounds(connection, at - LOOKED_AT):
        found.setdefault(route, []).append(timings)
    for one in settings.routes:
        told = answered(one.name, found.get(one.name, []), one.objective_s)
        if told is not None:
            yield told

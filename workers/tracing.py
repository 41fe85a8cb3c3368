"""Sends a trace of each job that ended to a collector of OpenTelemetry: one span from last image to result, one a step.

Steps are laid one behind the other as they were timed. No study, patient or address is in a trace; the job's id is.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from appliance.catalogue import Catalogue, gauges, overview
from appliance.errors import Missing
from appliance.metrics import ENDS
from appliance.process import keep_stepping
from appliance.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

EVERY_S = 5.0
TOTALS = ("total_s",)  # not steps: sums of them


def start(settings: Settings, catalogue: Catalogue, stop: threading.Event) -> None:
    """Send in a thread of its own until told to stop, where a collector is named. Raises Missing without the extra."""
    if settings.tracing.otlp:
        tracing = Tracing(settings, catalogue)
        threading.Thread(target=keep_stepping, args=(tracing.step, stop, EVERY_S), daemon=True).start()


class Tracing:
    """Follows the record of events from its start on. What a collector does not take is lost: it is no record."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.provider = provider_of(settings)
        self.tracer: Tracer = self.provider.get_tracer("curie")
        with catalogue.read() as connection:
            _, self.seen = gauges.newest(connection)

    def step(self) -> None:
        """Send the jobs that ended since the last time."""
        with self.catalogue.read() as connection:
            while rows := gauges.events_after(connection, self.seen):
                for row in rows:
                    if row.kind in ENDS:
                        self._tell(connection, row.job_id)
                self.seen = rows[-1].seq

    def _tell(self, connection: Connection, job_id: str) -> None:
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        told = gauges.job_and_study(connection, job_id)
        if told is None:
            return
        steps = overview.timings_of(connection, job_id)
        lasts = {name.removesuffix("_s"): seconds for name, seconds in steps.items() if name not in TOTALS}
        begin = told.last_received_at
        about = {"curie.job": job_id, "curie.package": told.package, "curie.version": told.package_version}
        whole = self.tracer.start_span(
            "answer a study", start_time=_ns(begin), attributes={**about, "curie.outcome": told.state}
        )
        if told.state == "failed":
            whole.set_status(Status(StatusCode.ERROR))
        for name, seconds in lasts.items():
            end = begin + timedelta(seconds=seconds)
            self.tracer.start_span(name, set_span_in_context(whole), start_time=_ns(begin)).end(_ns(end))
            begin = end
        whole.end(_ns(begin))


def _ns(moment: Any) -> int:
    return int(moment.timestamp() * 1e9)


def provider_of(settings: Settings) -> Any:
    """Return a provider that sends in batches, in a thread of its own."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise Missing("[tracing] needs an extra: pip install 'petite-curie[tracing]'") from None
    named = {"service.name": "curie", "service.instance.id": settings.appliance.name}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{settings.tracing.otlp}/v1/traces", timeout=10)))
    return provider

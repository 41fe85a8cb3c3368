"""A job that ended is one trace at a real collector: its steps one behind the other, nothing of a patient in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import update

from appliance.catalogue import Catalogue, events
from appliance.catalogue.tables import job
from appliance.settings import load
from tests.appliance.catalogue.rows import queued_job
from workers.tracing import Tracing


class Collector(HTTPServer):
    """Takes traces on loopback."""

    def __init__(self) -> None:
        self.got: list[Span] = []
        super().__init__(("127.0.0.1", 0), Taking)


class Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
            for scope in resource.scope_spans:
                self.server.got += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_job_is_one_trace_with_its_steps(tmp_path: Path, catalogue: Catalogue, collector: Collector) -> None:
    (tmp_path / "curie.toml").write_text(f'[tracing]\notlp = "http://127.0.0.1:{collector.server_port}"\n')
    tracing = Tracing(load(tmp_path / "curie.toml"), catalogue)
    uid = "1.2.826.0.1.3680043"
    identity = queued_job(catalogue, uid)
    with catalogue.write() as connection:
        timed = {"volume_s": 2.0, "inference_s": 30.0}
        connection.execute(update(job).where(job.c.id == identity).values(timings=timed, state="failed"))
        events.record(connection, "job_failed", study=uid, job=identity, reason="broken")
    tracing.step()
    tracing.provider.shutdown()
    (whole,) = [one for one in collector.got if not one.parent_span_id]
    parts = {one.name: one for one in collector.got if one.parent_span_id == whole.span_id}
    assert len(parts) == len(collector.got) - 1
    inference, volume = parts["inference"], parts["volume"]
    assert inference.end_time_unix_nano - inference.start_time_unix_nano == pytest.approx(30e9, abs=1e4)
    assert volume.end_time_unix_nano == inference.start_time_unix_nano
    assert whole.start_time_unix_nano <= volume.start_time_unix_nano
    assert whole.end_time_unix_nano == inference.end_time_unix_nano
    assert whole.status.code == 2  # error
    assert {one.key for one in whole.attributes} == {"curie.job", "curie.package", "curie.version", "curie.outcome"}
    assert uid not in str(collector.got)

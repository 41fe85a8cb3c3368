"""A console on a catalogue of its own, and browsers that are logged in; requests go through the whole application."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from appliance.catalogue import Catalogue, jobs, users
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import NewResult
from appliance.console.access import digest_of, new_token
from appliance.console.app import make_app, make_parts
from appliance.settings import Settings, parse
from dicom_nodes.segmentation import write_segmentation
from tests import made_up
from tests.appliance.catalogue.rows import complete_and_route, instance, receive

SETTINGS = """
[appliance]
data_dir = "."
[receiver]
port = {port}
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
[[routes]]
name = "route"
package = "brain"
destinations = ["pacs"]
"""
SERIES_OF_PHANTOM = "1.9"
FINDINGS = [
    {
        "name": "Brain",
        "segment": 1,
        "tracking_uid": "2.25.5",
        "present": True,
        "probability": None,
        "measurements": [{"name": "Volume", "value": 13.25, "unit": "ml"}],
    }
]
Enter = Callable[..., TestClient]


@pytest.fixture
def settings(tmp_path: Path, free_port: int) -> Settings:
    """Settings whose receiver and PACS nobody is."""
    return parse(SETTINGS.format(port=free_port), tmp_path / "curie.toml")


@pytest.fixture
def outside(settings: Settings, catalogue: Catalogue) -> Iterator[TestClient]:
    """A browser that nobody has logged in by; it follows no redirect."""
    with TestClient(make_app(make_parts(settings, catalogue)), follow_redirects=False) as client:
        yield client


@pytest.fixture
def enter(settings: Settings, catalogue: Catalogue) -> Iterator[Enter]:
    """Return a browser with an open session of a role; `idle`: nothing was asked by it for so long."""
    with ExitStack() as stack:

        def entered(role: str = "viewer", idle: timedelta = timedelta(), change: Settings = settings) -> TestClient:
            token, at = new_token(), now() - idle
            with catalogue.write() as connection:
                users.open_session(connection, digest_of(token), f"{role}-anna", role, at, timedelta(hours=12))
            app = make_app(make_parts(change, catalogue))
            return stack.enter_context(TestClient(app, cookies={"curie": token}, follow_redirects=False))

        yield entered


@pytest.fixture
def finished(settings: Settings, catalogue: Catalogue) -> str:
    """A job with a segmentation of a phantom, its files where they belong; returns its id. The study is 1.2.3."""
    made = made_up.context()
    labels, volume, source = made_up.read_phantom(settings.spool_dir)
    found = [replace(one, rgb=(250, 40, 10)) for one in made_up.findings(made)]
    (settings.results_dir).mkdir()
    content = bytes(write_segmentation(labels, volume, found, source, made))
    (settings.results_dir / "seg.dcm").write_bytes(content)
    with catalogue.write() as connection:
        for n, file in enumerate(sorted(settings.spool_dir.iterdir())):
            row = instance(
                uid=f"1.{n}", study="1.2.3", path=file.name, accession_number="ACC-12345", series=SERIES_OF_PHANTOM
            )
            receive(connection, row)
        job = complete_and_route(connection, "1.2.3")
        assert job is not None
        held = jobs.claim(connection, "worker", now())
        assert held is not None
        result = NewResult("2.25.7", "1.2", "2.25.9", "SEG", "seg.dcm", "ab" * 32, len(content))
        record = {"engine": "openvino f32", "timings": {"volume_s": 0.5, "inference_s": 2.0}, "findings": FINDINGS}
        jobs.commit_results(connection, held, [result], {"pacs": ("SEG", "SR")}, record, now())
    return job

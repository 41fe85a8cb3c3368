"""The stream that tells pages to renew themselves, over a real socket, and how the server ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import httpx2
import pytest

from appliance.catalogue import Catalogue, events, flow, users
from appliance.catalogue.connection import now
from appliance.console import live
from appliance.console.access import digest_of, new_token
from appliance.console.app import make_parts
from appliance.console.server import Server
from appliance.settings import Settings


@contextmanager
def served(settings: Settings, catalogue: Catalogue) -> Iterator[tuple[str, threading.Event, threading.Thread]]:
    """Serve a console on loopback; yields its address, the event that ends it, and its thread."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(settings, make_parts(settings, catalogue), stop)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", stop, thread
    finally:
        stop.set()
        thread.join(timeout=10)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture
def session(catalogue: Catalogue) -> dict[str, str]:
    """The cookie of an open session."""
    token = new_token()
    with catalogue.write() as connection:
        users.open_session(connection, digest_of(token), "anna", "viewer", now(), timedelta(hours=1))
    return {"curie": token}


def next_event(lines: Iterator[str]) -> str:
    return next(line for line in lines if line.startswith("event:"))


def test_a_change_is_told_and_the_stream_ends_with_the_server(
    settings: Settings, catalogue: Catalogue, session: dict[str, str]
) -> None:
    with served(settings, catalogue) as (url, stop, thread), httpx2.Client(base_url=url, cookies=session) as client:
        with client.stream("GET", "/live", timeout=30) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            assert next_event(lines) == "event: changed"
            with catalogue.write() as connection:
                events.record(connection, "study_complete", study="1")
            assert next_event(lines) == "event: changed"
            asked_at = time.monotonic()
            stop.set()
            assert not [line for line in lines if line.startswith("event:")]
        thread.join(timeout=10)
        assert time.monotonic() - asked_at < 5


def test_a_stream_ends_with_its_session(
    settings: Settings, catalogue: Catalogue, session: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "BEAT_S", 0.2)
    with served(settings, catalogue) as (url, *_), httpx2.Client(base_url=url, cookies=session) as client:
        with client.stream("GET", "/live", timeout=30) as answer:
            lines = answer.iter_lines()
            assert next(line for line in lines if line.startswith(":")) == ": still here"
            with catalogue.write() as connection:
                users.end_session(connection, digest_of(session["curie"]))
            assert list(lines)[-1:] in ([""], [])
        assert client.get("/live").status_code == 401


def test_there_is_an_end_of_how_many_may_listen(
    settings: Settings, catalogue: Catalogue, session: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.console.app.MOST", 0)
    with served(settings, catalogue) as (url, *_):
        assert httpx2.get(f"{url}/live", cookies=session).status_code == 503


@pytest.mark.parametrize(("url", "address"), [(None, "127.0.0.1"), ("https://curie.example", "6.6.6.6")])
def test_a_forwarded_address_counts_behind_a_proxy_alone(
    settings: Settings, catalogue: Catalogue, url: str | None, address: str
) -> None:
    console = settings.console.model_copy(update={"url": url})
    changed = settings.model_copy(update={"console": console})
    with served(changed, catalogue) as (place, *_):
        token = httpx2.get(f"{place}/login").cookies["curie_door"]
        fields = {"name": "anna", "password": "wrong", "token": token}
        headers = {"x-forwarded-for": "6.6.6.6", "cookie": f"curie_door={token}"}
        assert httpx2.post(f"{place}/login", data=fields, headers=headers).status_code == 401
    with catalogue.read() as connection:
        (entry,) = flow.happened(connection, ["login_refused"])
    assert entry["detail"]["address"] == address

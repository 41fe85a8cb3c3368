"""Alarms reach a real web server and a real mail server, also after these were away, and name no patient."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from appliance.alarms import needed
from appliance.catalogue import Catalogue, events, open_catalogue, processes
from appliance.catalogue.connection import now
from appliance.catalogue.tables import job
from appliance.errors import SettingsError
from appliance.settings import Settings, load
from appliance.watch import Watch, alarms_now
from tests.appliance.catalogue.rows import queued_job
from workers.alerting import Alerting


class Hook(HTTPServer):
    """A web server on loopback that keeps what is posted, or refuses it."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.away = False
        super().__init__(("127.0.0.1", 0), HookAnswer)


class HookAnswer(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.away:
            self.server.got.append(json.loads(content))
        self.send_response(503 if self.server.away else 204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Mail(socketserver.ThreadingTCPServer):
    """A mail server on loopback that keeps messages (RFC 5321, as much as is asked of it)."""

    def __init__(self) -> None:
        self.got: list[str] = []
        super().__init__(("127.0.0.1", 0), MailAnswer)


class MailAnswer(socketserver.StreamRequestHandler):
    server: Mail

    def handle(self) -> None:
        self._say("220 here")
        for line in self.rfile:
            word = line.split()[0].upper()
            if word == b"DATA":
                self._say("354 go on")
                self.server.got.append("".join(iter(lambda: self.rfile.readline().decode(), ".\r\n")))
            self._say("221 bye" if word == b"QUIT" else "250 fine")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def post() -> Iterator[Mail]:
    with Mail() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def settings_of(folder: Path, **alerts: str) -> Settings:
    lines = [f'{name} = "{value}"' for name, value in alerts.items()]
    text = [f'[appliance]\nname = "radium"\ndata_dir = "{folder}"', "[spool]\nreserve_gb = 0", "[alerts]", *lines]
    (folder / "curie.toml").write_text("\n".join(text) + "\n")
    return load(folder / "curie.toml")


def let_wait(catalogue: Catalogue, seconds: float) -> None:
    """Let a job have waited for so long."""
    queued_job(catalogue, "1.2.4711")
    with catalogue.write() as connection:
        connection.execute(update(job).values(due_at=now() - timedelta(seconds=seconds)))


def alerting_of(settings: Settings, catalogue: Catalogue) -> Alerting:
    """Return who tells alarms in a house where every process beats."""
    with catalogue.write() as connection:
        for name in needed(settings.broker.url):
            processes.beat(connection, name, now())
    return Alerting(settings, catalogue, Watch(settings))


def steps(alerting: Alerting) -> None:
    """Look twice: what lasts is told then."""
    for _ in range(2):
        alerting.step()


def test_an_alarm_is_posted_once_and_its_end_too(catalogue: Catalogue, tmp_path: Path, hook: Hook) -> None:
    settings = settings_of(tmp_path, webhook=f"http://127.0.0.1:{hook.server_port}/")
    alerting = alerting_of(settings, catalogue)
    steps(alerting)
    assert hook.got == []
    let_wait(catalogue, 3600)
    alerting.step()
    assert hook.got == []  # seen once
    steps(alerting)
    (told,) = hook.got
    assert (told["appliance"], told["raised"][0]["name"], told["cleared"]) == ("radium", "step queued", [])
    assert "4711" not in str(told)
    again = alerting_of(settings, catalogue)  # a restart tells nothing twice
    steps(again)
    assert len(hook.got) == 1
    with catalogue.write() as connection:
        connection.execute(update(job).values(state="cancelled"))
    steps(again)
    assert (hook.got[1]["raised"], hook.got[1]["cleared"]) == ([], ["step queued"])
    with catalogue.read() as connection:
        assert events.open_alarms(connection) == []


def test_what_could_not_be_told_is_told_later(catalogue: Catalogue, tmp_path: Path, hook: Hook) -> None:
    alerting = alerting_of(settings_of(tmp_path, webhook=f"http://127.0.0.1:{hook.server_port}/"), catalogue)
    let_wait(catalogue, 3600)
    hook.away = True
    steps(alerting)
    assert standing(alerting) == {"step queued", "alerts webhook"}
    hook.away = False
    alerting.step()
    assert [one["raised"][0]["name"] for one in hook.got] == ["step queued"]
    assert standing(alerting) == {"step queued"}


def standing(alerting: Alerting) -> set[str]:
    """Return the alarms that everybody sees once dispatch has beaten."""
    with alerting.catalogue.write() as connection:
        processes.beat(connection, "dispatch", now(), alerting.watch.told())
        return {one.name for one in alarms_now(alerting.settings, connection, now())}


def test_an_alarm_comes_by_mail(catalogue: Catalogue, tmp_path: Path, post: Mail) -> None:
    port = post.server_address[1]
    alerting = alerting_of(settings_of(tmp_path, smtp=f"smtp://127.0.0.1:{port}?to=it@example.org"), catalogue)
    let_wait(catalogue, 3600)
    steps(alerting)
    (message,) = post.got
    assert "To: it@example.org" in message
    assert "Subject: curie radium: 1 alarms" in message
    assert "step queued: A job waits for 60 minutes (1 at this step). Look whether" in message


FEDERATION = '[federation]\ncoordinator = "grpcs://localhost:1"\nkit = "no-kit"\n'


def test_what_dispatch_checks_is_seen_by_everybody(tmp_path: Path) -> None:
    """The process itself: its heartbeat carries what only it looks at."""
    file = tmp_path / "curie.toml"
    file.write_text(f'[appliance]\ndata_dir = "{tmp_path}"\n{FEDERATION}')
    settings = load(file)
    command = [sys.executable, "-m", "appliance.cli.main", "run", "dispatch", "--config", str(file)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as dispatch:
        try:
            catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
            deadline, names = time.monotonic() + 60, list[str]()
            while "check federation" not in names and time.monotonic() < deadline:
                time.sleep(0.2)
                with catalogue.read() as connection:
                    names = [one.name for one in alarms_now(settings, connection, now())]
            catalogue.close()
        finally:
            dispatch.terminate()
    assert "check federation" in names


@pytest.mark.parametrize("url", ["mail.example.org", "smtp://mail.example.org", "smtp://a:b@mail.example.org?to=x@y"])
def test_a_way_that_cannot_work_is_refused_at_start(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"alerts\.smtp"):
        settings_of(tmp_path, smtp=url)

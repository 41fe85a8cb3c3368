"""`curie doctor` asks real sockets: who is there, who is not, and who is somebody else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from appliance.doctor import check_console, check_sources
from appliance.settings import Settings, load


def settings_of(folder: Path, text: str) -> Settings:
    (folder / "curie.toml").write_text(text)
    return load(folder / "curie.toml")


@pytest.fixture(params=[200, 503, 404])
def web(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A web server that gives every request one status; with its port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield request.param, server.server_port
        server.shutdown()


def test_the_console_s_port_is_ours_or_somebody_else_s(web: tuple[int, int], tmp_path: Path) -> None:
    status, port = web
    check = check_console(settings_of(tmp_path, f"[console]\nport = {port}\n"))
    assert check.ok is (status != 404)
    assert ("something else" in check.text) is (status == 404)


def test_a_free_port_will_do_and_a_held_one_will_not(free_port: int, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f"[console]\nport = {free_port}\n")
    assert check_console(settings).ok
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", free_port))
        assert not check_console(settings).ok


def test_sources_that_say_where_they_are_must_answer(free_port: int, tmp_path: Path) -> None:
    ae = AE(ae_title="CT1")
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    port = server.socket.getsockname()[1]
    text = "".join(
        f'[[sources]]\nae_title = "{title}"\nhosts = ["127.0.0.0/8"]\nhost = "127.0.0.1"\nport = {at}\n'
        for title, at in (("CT1", port), ("CT2", free_port))
    )
    try:
        there, away = check_sources(settings_of(tmp_path, text + '[[sources]]\nae_title = "CT3"\n'))
    finally:
        server.shutdown()
    assert (there.name, there.ok) == ("source CT1", True)
    assert (away.name, away.ok) == ("source CT2", False)
    assert "AE title CURIE" in away.remedy

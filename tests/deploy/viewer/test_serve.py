"""The viewer's server: it serves a page and passes questions on to the PACS, and does nothing else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import uvicorn

from deploy.viewer.serve import application
from tests.web_server import Reply, Request, WebServer

PART = b"--b\r\nContent-Type: application/octet-stream\r\n\r\n\x00\xff\r\n--b--"
MULTIPART = "multipart/related; type=application/octet-stream; boundary=b"


def answer(request: Request) -> Reply:
    if request.path.endswith("/frames/1"):
        return 200, PART, {"Content-Type": MULTIPART}
    if request.path.endswith("/moved"):
        return 302, b"", {"Location": "http://elsewhere.invalid/"}
    return 404, {"message": "unknown"}, {"Content-Type": "application/json"}


@pytest.fixture
def pacs() -> Iterator[WebServer]:
    server = WebServer(answer)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def viewer(pacs: WebServer, tmp_path: Path) -> Iterator[str]:
    """The URL of a running viewer before the PACS."""
    (tmp_path / "index.html").write_text("the viewer")
    (tmp_path / "app.js").write_text("built")
    (tmp_path / "app-config.js").write_text("built in")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = application(tmp_path, pacs.url)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_every_page_is_the_viewer_and_its_settings_are_ours(viewer: str) -> None:
    for page in ("/", "/viewer?StudyInstanceUIDs=1.2"):
        assert requests.get(viewer + page, timeout=10).text == "the viewer"
    assert requests.get(f"{viewer}/app.js", timeout=10).text == "built"
    assert requests.get(f"{viewer}/absent.js", timeout=10).status_code == 404
    assert "sourceName: 'pacs'" in requests.get(f"{viewer}/app-config.js", timeout=10).text


def test_the_page_may_ask_nobody_else(viewer: str) -> None:
    for page in ("/", "/viewer", "/app.js"):
        policy = requests.get(viewer + page, timeout=10).headers["Content-Security-Policy"]
        assert "connect-src 'self' blob: data:;" in policy


def test_questions_and_answers_pass_unchanged(viewer: str, pacs: WebServer) -> None:
    asked = f"{viewer}/dicom-web/studies/1.2/series/3/instances/4/frames/1?a=b%2Cc"
    found = requests.get(asked, headers={"Accept": MULTIPART, "Cookie": "secret"}, timeout=10)
    assert (found.status_code, found.content, found.headers["Content-Type"]) == (200, PART, MULTIPART)
    (request,) = pacs.requests
    assert (request.method, request.path) == ("GET", "/dicom-web/studies/1.2/series/3/instances/4/frames/1")
    assert request.query == [("a", "b,c")]
    assert request.headers["accept"] == MULTIPART
    assert "cookie" not in request.headers
    assert requests.get(f"{viewer}/dicom-web/studies/9", timeout=10).status_code == 404


@pytest.mark.parametrize("path", ["/dicom-web/../instances", "/dicom-web/%2e%2e/instances", "/dicom-web/a/..%2F../x"])
def test_nothing_but_dicomweb_is_reached(viewer: str, pacs: WebServer, path: str) -> None:
    with requests.Session() as session:
        asked = requests.Request("GET", viewer).prepare()
        asked.url = viewer + path
        session.send(asked, timeout=10)
    assert pacs.requests == []


def test_nothing_is_written_and_no_redirect_followed(viewer: str, pacs: WebServer) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert requests.request(method, f"{viewer}/dicom-web/studies", data=b"x", timeout=10).status_code == 405
    assert pacs.requests == []
    assert requests.get(f"{viewer}/dicom-web/moved", allow_redirects=False, timeout=10).status_code == 302


def test_a_pacs_that_is_away_is_said(viewer: str, pacs: WebServer) -> None:
    pacs.stop()
    found = requests.get(f"{viewer}/dicom-web/studies", timeout=10)
    assert (found.status_code, found.text) == (502, "the PACS does not answer: ConnectionError")
    pacs.start()

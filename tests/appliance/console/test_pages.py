"""What holds for every page: who may see it, what the browser is told, and that anybody can find their way."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from starlette.testclient import TestClient

from appliance.catalogue import Catalogue
from appliance.console.access import may
from appliance.console.app import PAGES
from appliance.passwords import ROLES
from appliance.settings import Settings, parse
from tests.appliance.catalogue.rows import queued_job
from tests.appliance.console.conftest import SETTINGS, Enter
from tests.appliance.console.visits import said, send

SHOWN = ("/", "/studies", "/studies/1.2.3", "/models", "/federation", "/destinations", "/audit")
VOID = {"meta", "link", "input", "br", "img"}
FEDERATED = """
[federation]
coordinator = "grpcs://fl.example:8002"
kit = "kit"
packages = ["hippocampus"]
[coordinator]
packages = ["hippocampus"]
"""


def filled(path: str, job: str = "none") -> str:
    return path.replace("{study}", "1.2.3").replace("{job}", job).replace("{name}", "pacs")


def test_no_page_without_a_session(outside: TestClient) -> None:
    for path, method, _, _ in PAGES:
        answer = outside.request(method, filled(path), data={"token": "x"} if method == "POST" else None)
        if path.startswith("/api/"):
            assert answer.status_code == 401, path
            continue
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/login")
    assert outside.get("/live").status_code == 401


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_what_the_map_says(enter: Enter, finished: str, role: str) -> None:
    client = enter(role)
    for path, method, _, needed in PAGES:
        answer = client.request(method, filled(path, finished), data={"token": "x"} if method == "POST" else None)
        refused = f"This needs the role {needed}" in said(answer)
        assert refused is not may(role, needed), (path, answer.status_code)


@pytest.mark.parametrize("path", [path for path, method, _, _ in PAGES if method == "POST"])
def test_a_form_that_is_not_ours_changes_nothing(enter: Enter, finished: str, path: str) -> None:
    client = enter("administrator")
    for fields in ({"key": "1.2.3"}, {"token": ""}, {"token": "0" * 64}):
        answer = client.post(filled(path, finished), data=fields)
        assert answer.status_code == 403
        assert "not ours" in said(answer)
    assert client.get("/").status_code == 200  # still logged in


def test_a_form_that_comes_from_another_site_changes_nothing(enter: Enter) -> None:
    client = enter()
    client.headers["sec-fetch-site"] = "cross-site"
    assert send(client, "/logout").status_code == 403


def test_a_form_of_another_kind_or_size_is_refused(enter: Enter) -> None:
    client = enter()
    assert client.post("/logout", json={"token": "x"}).status_code == 403
    assert send(client, "/studies/search", key="1" * 20_000).status_code == 403


@pytest.mark.parametrize(
    "path", [*SHOWN, "/login", "/healthz", "/metrics", "/static/console.css", "/nowhere", "/live/x"]
)
def test_the_browser_is_told_to_load_nothing_from_elsewhere(enter: Enter, path: str) -> None:
    headers = enter().get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"


class Seen(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[Any]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [held for tag, held in self.tags if tag in names]


@pytest.fixture(params=ROLES)
def everything(
    request: pytest.FixtureRequest, enter: Enter, finished: str, catalogue: Catalogue, settings: Settings
) -> Any:
    """A browser of each role, where there is something to see on every page."""
    text = SETTINGS.format(port=settings.receiver.port) + FEDERATED
    queued_job(catalogue, "9.9")
    return enter(request.param, change=parse(text, settings.data_dir / "curie.toml"))


@pytest.mark.parametrize("path", [*SHOWN, "/login", "/studies?outcome=queued", "/audit?kind=login", "/nowhere"])
def test_a_page_is_whole_and_runs_nothing_inline(everything: TestClient, path: str) -> None:
    answer = everything.get(path)
    assert answer.status_code == (404 if path == "/nowhere" else 200), said(answer)
    seen = Seen(answer.text)
    assert seen.open == []
    assert all(held.get("src", "").startswith("/static/") for held in seen.all("script"))  # type: ignore[union-attr]
    assert not seen.all("style")
    for _, held in seen.tags:
        assert "style" not in held
        assert not any(name.startswith(("on", "hx-on")) for name in held), held
    ids = [held["id"] for _, held in seen.tags if "id" in held]
    assert len(ids) == len(set(ids)), ids


@pytest.mark.parametrize("path", [*SHOWN, "/login"])
def test_whoever_sees_nothing_or_has_no_mouse_finds_their_way(everything: TestClient, path: str) -> None:
    seen = Seen(everything.get(path).text)
    assert [len(seen.all(tag)) for tag in ("h1", "main", "header", "footer")] == [1, 1, 1, 1]
    assert seen.all("a")[0] == {"class": "skip", "href": "#main"}
    assert seen.all("html")[0]["lang"] == "en"
    labelled = {held.get("for") for held in seen.all("label")}
    for held in seen.all("input", "select"):
        assert held.get("type") == "hidden" or held.get("id") in labelled or held.get("name") == "reason"
    assert all("scope" in held for held in seen.all("th"))
    assert all(held.get("alt") for held in seen.all("img"))
    assert all(held.get("role") == "img" for held in seen.all("svg"))
    after = [seen.tags[n + 1][0] for n, (tag, _) in enumerate(seen.tags) if tag == "svg"]
    assert set(after) <= {"title"}


def test_what_goes_wrong_is_one_sentence_without_a_traceback(
    enter: Enter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*given: object, **more: object) -> None:
        raise RuntimeError("SMITH^JOHN was here")

    monkeypatch.setattr("appliance.catalogue.flow.studies", broken)
    answer = enter().get("/studies")
    assert answer.status_code == 500
    assert "This page failed (RuntimeError)." in said(answer)
    told = capsys.readouterr()
    assert "SMITH" not in answer.text + told.out + told.err
    assert "Traceback" not in answer.text + told.out + told.err

"""The door: who gets in, who does not, and what stands on record of it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from appliance.catalogue import Catalogue, flow, users
from appliance.catalogue.connection import now
from appliance.console.access import MOST_OF_ACCOUNT, digest_of
from appliance.console.app import make_app, make_parts
from appliance.passwords import hash_of
from appliance.settings import Settings
from tests.appliance.console.conftest import Enter
from tests.appliance.console.visits import on_record, said, send

PASSWORD = "correct horse battery"


@pytest.fixture
def anna(catalogue: Catalogue) -> str:
    """An account; returns its name."""
    with catalogue.write() as connection:
        users.add(connection, "anna", "operator", hash_of(PASSWORD), now())
    return "anna"


def knock(client: TestClient, **fields: str) -> Any:
    """Fill in the form of the door as it was shown."""
    shown = client.get("/login").text
    token = re.search(r'name="token" value="([^"]+)"', shown)
    assert token, shown
    return client.post("/login", data={"token": token[1], "password": PASSWORD, **fields})


def test_without_an_account_the_door_says_which_command_makes_one(outside: TestClient) -> None:
    shown = outside.get("/login")
    assert "curie users add NAME --role administrator" in shown.text
    assert "password" not in shown.text.lower()


def test_who_knows_the_password_gets_in_and_out_again(outside: TestClient, anna: str, catalogue: Catalogue) -> None:
    assert outside.get("/").headers["location"] == "/login?next=/"
    entered = knock(outside, name=" Anna ", next="/studies")
    assert (entered.status_code, entered.headers["location"]) == (303, "/studies")
    assert outside.get("/").status_code == 200
    assert send(outside, "/logout").headers["location"] == "/login"
    assert outside.get("/").status_code == 303
    assert [kind for kind, who, _ in on_record(catalogue) if who == anna] == ["login", "logout"]


def test_a_session_ends_where_it_is_kept_not_in_the_browser_alone(
    outside: TestClient, anna: str, catalogue: Catalogue
) -> None:
    knock(outside, name=anna)
    token = outside.cookies["curie"]
    send(outside, "/logout")
    outside.cookies.set("curie", token)
    assert outside.get("/").status_code == 303
    with catalogue.read() as connection:
        assert users.session(connection, digest_of(token), now()) is None


@pytest.mark.parametrize("fields", [{"name": "anna", "password": "wrong"}, {"name": "nobody"}, {"name": "' OR 1=1 --"}])
def test_wrong_names_and_passwords_are_refused_alike(outside: TestClient, anna: str, fields: dict[str, str]) -> None:
    refused = knock(outside, **fields)
    assert refused.status_code == 401
    assert "Name or password is wrong." in refused.text
    assert "curie" not in outside.cookies


def test_a_name_that_is_none_may_be_a_password_and_is_not_kept(outside: TestClient, catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        users.add(connection, "bert", "viewer", "no hash", now())
    knock(outside, name="my secret word")
    with catalogue.read() as connection:
        (entry,) = flow.happened(connection, ["login_refused"])
    assert entry["detail"]["reason"] == "no such account"
    assert "secret" not in str(entry)


def test_many_wrong_tries_close_the_door_for_the_account_also_for_the_right_password(
    outside: TestClient, anna: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.console.pages.login.is_right", lambda hashed, given: given == PASSWORD)
    answers = [knock(outside, name=anna, password="wrong").status_code for _ in range(MOST_OF_ACCOUNT + 1)]
    assert answers == [401] * MOST_OF_ACCOUNT + [429]
    closed = knock(outside, name=anna)
    assert closed.status_code == 429
    assert "Too many tries. Wait 15 minutes." in said(closed)


def test_the_form_of_the_door_is_bound_to_the_browser_it_was_given_to(outside: TestClient, anna: str) -> None:
    assert outside.post("/login", data={"name": anna, "password": PASSWORD}).status_code == 403
    outside.get("/login")
    foreign = {"name": anna, "password": PASSWORD, "token": "made-up"}
    assert outside.post("/login", data=foreign).status_code == 403
    own = outside.cookies["curie_door"]
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert outside.post("/login", data={**foreign, "token": own}, headers=elsewhere).status_code == 403
    assert outside.post("/login", data={**foreign, "token": own}).status_code == 303


@pytest.mark.parametrize("away", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:x", "/a:b"])
def test_the_door_leads_nowhere_else(outside: TestClient, anna: str, away: str) -> None:
    assert knock(outside, name=anna, next=away).headers["location"] == "/"


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(outside: TestClient, anna: str) -> None:
    entered = knock(outside, name=anna)
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie


def test_behind_https_cookies_are_for_https_and_this_host_alone(
    settings: Settings, catalogue: Catalogue, anna: str
) -> None:
    console = settings.console.model_copy(update={"url": "https://curie.example"})
    app = make_app(make_parts(settings.model_copy(update={"console": console}), catalogue))
    with TestClient(app, base_url="https://curie.example", follow_redirects=False) as client:
        cookie = knock(client, name=anna).headers["set-cookie"].lower()
    assert cookie.startswith("__host-curie=")
    assert "secure" in cookie


@pytest.mark.parametrize(("role", "idle_h", "answer"), [("operator", 2, 303), ("viewer", 2, 200), ("viewer", 13, 303)])
def test_a_session_that_nobody_uses_ends(enter: Enter, role: str, idle_h: int, answer: int) -> None:
    assert enter(role, idle=timedelta(hours=idle_h)).get("/studies").status_code == answer


def test_another_role_or_password_ends_the_sessions(outside: TestClient, anna: str, catalogue: Catalogue) -> None:
    knock(outside, name=anna)
    with catalogue.write() as connection:
        users.change(connection, anna, now(), role="viewer")
    assert outside.get("/").status_code == 303


def test_an_account_that_is_removed_lets_nobody_in(outside: TestClient, anna: str, catalogue: Catalogue) -> None:
    knock(outside, name=anna)
    with catalogue.write() as connection:
        users.remove(connection, anna)
    assert outside.get("/").status_code == 303


def test_a_program_without_a_session_is_told_so(outside: TestClient) -> None:
    answer = outside.get("/api/status")
    assert (answer.status_code, answer.text) == (401, "log in first")

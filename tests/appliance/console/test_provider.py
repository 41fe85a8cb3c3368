"""Login by the hospital's accounts: whoever is vouched for gets in with the role of their groups, and nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc.jwk import OctKey, RSAKey
from starlette.testclient import TestClient

from appliance.catalogue import Catalogue
from appliance.console.app import make_app, make_parts
from appliance.errors import SettingsError
from appliance.settings import Settings, parse
from tests.appliance.console.identity_provider import IdentityProvider, identity_provider
from tests.appliance.console.visits import on_record, said

SETTINGS = """
[appliance]
data_dir = "."
[console]
url = "http://localhost:8480"
[console.oidc]
issuer = "{issuer}"
client_id = "curie"
client_secret_file = "secret"
viewer = ["staff"]
operator = ["radiology"]
administrator = ["pacs-team"]
"""


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as one:
        yield one


@pytest.fixture
def settings(provider: IdentityProvider, tmp_path: Path) -> Settings:
    (tmp_path / "secret").write_text("the secret\n")
    return parse(SETTINGS.format(issuer=provider.url), tmp_path / "curie.toml")


@pytest.fixture
def client(settings: Settings, catalogue: Catalogue) -> Iterator[TestClient]:
    app = make_app(make_parts(settings, catalogue))
    with TestClient(app, base_url="http://localhost:8480", follow_redirects=False) as one:
        yield one


def come_back(client: TestClient, state: str = "", code: str = "") -> Any:
    """Go to the provider and come back, as a browser does; `state`, `code`: others than it gave."""
    sent = client.get("/login/provider")
    assert sent.status_code == 303, said(sent)
    back = httpx2.get(sent.headers["location"]).headers["location"]
    query = dict(httpx2.URL(back).params)
    return client.get("/login/back", params={"state": state or query["state"], "code": code or query["code"]})


@pytest.mark.parametrize(
    ("groups", "role"),
    [(["radiology"], "operator"), (["staff", "pacs-team"], "administrator"), ("staff", "viewer")],
)
def test_who_is_vouched_for_gets_in_with_the_role_of_their_groups(
    client: TestClient, provider: IdentityProvider, catalogue: Catalogue, groups: Any, role: str
) -> None:
    provider.person["groups"] = groups
    shown = client.get("/login").text
    assert "Log in with your hospital account" in shown
    answer = come_back(client)
    assert answer.status_code == 200
    assert 'content="0;url=/"' in answer.text
    assert f"anna (provider), {role}" in said(client.get("/studies"))
    assert on_record(catalogue) == [("login", "anna (provider)", "")]


@pytest.mark.parametrize("groups", [[], ["cleaning"], None, [["radiology"]], "radiolog"])
def test_who_is_in_no_group_of_ours_stays_out(
    client: TestClient, provider: IdentityProvider, catalogue: Catalogue, groups: Any
) -> None:
    provider.person["groups"] = groups
    answer = come_back(client)
    assert answer.status_code == 403
    assert "anna (provider) is in no group that may open this console." in said(answer)
    assert client.get("/studies").status_code == 303
    assert [kind for kind, *_ in on_record(catalogue)] == ["login_refused"]


def replaced(name: str, value: Any) -> Any:
    return lambda claims: claims.update({name: value})


@pytest.mark.parametrize(
    "lie",
    [
        replaced("nonce", "another"),
        replaced("aud", "somebody else"),
        replaced("aud", ["curie", "somebody else"]),
        replaced("iss", "https://evil.example"),
        replaced("exp", int(time.time()) - 3600),
        replaced("iat", int(time.time()) + 3600),
        lambda claims: claims.pop("sub"),
        lambda claims: claims.pop("exp"),
        lambda claims: claims.pop("nonce"),
    ],
)
def test_an_answer_that_is_not_for_this_login_lets_nobody_in(
    client: TestClient, provider: IdentityProvider, lie: Any
) -> None:
    provider.lie = lie
    answer = come_back(client)
    assert answer.status_code == 422
    assert "the identity provider's answer is not good" in said(answer)
    assert client.get("/studies").status_code == 303


@pytest.mark.parametrize("by", ["another key", "a shared secret", "nobody"])
def test_an_answer_that_the_provider_did_not_sign_lets_nobody_in(
    client: TestClient, provider: IdentityProvider, by: str
) -> None:
    if by == "another key":
        provider.signs_by = RSAKey.generate_key(2048, {"kid": "1"}, private=True)
    elif by == "a shared secret":
        provider.signs_by = OctKey.import_key("the secret that both know, of some length")
        provider.header = {"alg": "HS256", "kid": "1"}
    else:
        provider.header = {"alg": "none"}
    assert "is not good" in said(come_back(client))
    assert client.get("/studies").status_code == 303


def test_new_keys_of_the_provider_are_asked_for(client: TestClient, provider: IdentityProvider) -> None:
    assert come_back(client).status_code == 200
    client.cookies.delete("curie")
    provider.renew_key()
    assert come_back(client).status_code == 200


def test_a_login_that_another_browser_began_is_not_finished_here(client: TestClient) -> None:
    assert "not begun in this browser" in said(come_back(client, state="made-up"))
    client.cookies.clear()
    assert "not begun in this browser" in said(client.get("/login/back?state=x&code=y"))
    assert "did not accept the login" in said(come_back(client, code="made-up"))
    assert client.get("/studies").status_code == 303


def test_a_provider_that_is_away_or_another_is_said(client: TestClient, provider: IdentityProvider) -> None:
    provider.issuer = "https://other.example"
    other = client.get("/login/provider")
    assert other.status_code == 409
    assert "is not what the provider calls itself" in said(other)


def test_a_provider_that_does_not_answer_is_said(tmp_path: Path, catalogue: Catalogue, free_port: int) -> None:
    (tmp_path / "secret").write_text("x")
    settings = parse(SETTINGS.format(issuer=f"http://127.0.0.1:{free_port}"), tmp_path / "curie.toml")
    with TestClient(make_app(make_parts(settings, catalogue))) as client:
        assert f"the identity provider at http://127.0.0.1:{free_port} does not answer" in said(
            client.get("/login/provider")
        )
        (tmp_path / "secret").unlink()
        assert "console.oidc.client_secret_file cannot be read" in said(client.get("/login/provider"))


def test_without_a_provider_there_is_no_such_door(tmp_path: Path, catalogue: Catalogue) -> None:
    settings = parse('[appliance]\ndata_dir = "."\n', tmp_path / "curie.toml")
    with TestClient(make_app(make_parts(settings, catalogue))) as client:
        assert client.get("/login/provider").status_code == 404
        assert client.get("/login/back?state=x&code=y").status_code == 422
        assert "hospital account" not in client.get("/login").text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('url = "http://localhost:8480"', ""), "console.oidc needs console.url"),
        (('issuer = "{issuer}"', 'issuer = "http://idp.example"'), "the secret would go in the clear"),
        (('viewer = ["staff"]', 'viewers = ["staff"]'), "did you mean 'viewer'"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, change: tuple[str, str], sentence: str) -> None:
    text = SETTINGS.replace(*change).replace("{issuer}", "https://idp.example")
    with pytest.raises(SettingsError, match=sentence):
        parse(text, tmp_path / "curie.toml")

"""The outbox to a DICOMweb destination: real HTTP on loopback, what is stored and what is said of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from appliance.catalogue import Catalogue, outbox, overview
from appliance.cli import app
from appliance.errors import Refused, Unreachable
from appliance.neighbours import check_destinations
from appliance.settings import Settings, parse
from dicom_nodes import dicomweb, web
from dicom_nodes.result_classes import LABEL_MAP
from tests.certificates import Authority
from tests.dicom_nodes.conftest import SETTINGS as DOOR
from tests.dicom_nodes.conftest import OpenDoor, Second
from tests.web_server import Reply, Request, WebServer, failing, references, response, warned
from tests.workers.parcels import MR, SECONDARY_CAPTURE, by_result, job_state, make_due, rows, states, waiting_job
from workers.delivery import Delivery

Answers = Callable[[Request], Reply]


def stores(request: Request) -> Reply:
    """Answer that everything is stored."""
    return 200, response(references(request))


@pytest.fixture
def server() -> Iterator[WebServer]:
    made = WebServer(stores)
    made.start()
    yield made
    made.stop()


def settings_of(folder: Path, url: str, more: str = "") -> Settings:
    text = f'[[destinations]]\nname = "web"\nurl = "{url}"\n{more}\n'
    return parse(text, folder / "curie.toml")


@pytest.fixture
def settings(tmp_path: Path, server: WebServer) -> Settings:
    return settings_of(tmp_path, server.url)


@pytest.fixture
def job(catalogue: Catalogue, settings: Settings) -> str:
    return waiting_job(catalogue, settings)


def test_the_stored_bytes_arrive_in_one_request_and_the_job_is_completed(
    settings: Settings, catalogue: Catalogue, server: WebServer, job: str
) -> None:
    Delivery(settings, catalogue).step()
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/dicom-web/studies")
    assert request.headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert "authorization" not in request.headers
    kept = sorted(path.read_bytes() for path in settings.results_dir.rglob("*.dcm"))
    assert sorted(request.parts()) == kept
    assert states(catalogue) == ["delivered", "delivered"]
    assert rows(catalogue)[0].answer == "200"
    assert job_state(catalogue, job) == "completed"


def test_our_own_second_door_takes_it(tmp_path: Path, catalogue: Catalogue, free_port: int) -> None:
    stow_port = WebServer(stores)
    stow_port.start()
    stow_port.stop()
    text = DOOR.format(port=free_port, more=f"stow = true\nstow_port = {stow_port.port}")
    door = OpenDoor(parse(text, tmp_path / "door/curie.toml"))
    second = Second(door)
    try:
        settings = settings_of(tmp_path, f"http://127.0.0.1:{second.port}/dicom-web")
        waiting_job(catalogue, settings)
        Delivery(settings, catalogue).step()
        kept = {hashlib.sha256(path.read_bytes()).hexdigest() for path in settings.results_dir.rglob("*.dcm")}
        assert states(catalogue) == ["delivered", "delivered"]
        found = door.kept()
        assert {hashlib.sha256(one).hexdigest() for one in found} == kept or len(found) == 2
    finally:
        second.close()
        door.close()


@pytest.mark.parametrize(
    ("answer", "wanted", "said"),
    [
        (lambda a, b: (202, response([a], [failing(b, 0x0110)])), ["delivered", "rejected"], "0x0110"),
        (lambda a, b: (200, response([a], [failing(b, 0x0111)])), ["delivered", "delivered"], "0x0111"),
        (lambda a, b: (202, response([a], [failing(b, 0xA700)])), ["delivered", "waiting"], "0xA700"),
        (lambda a, b: (202, response([a, warned(b, 0xB000)])), ["delivered", "delivered"], "warning 0xB000"),
        (lambda a, b: (202, response([a])), ["delivered", "waiting"], "did not say"),
        (lambda a, b: (202, response([a, b], [failing(b, 0x0122)])), ["delivered", "rejected"], "0x0122"),
        (
            lambda a, b: (409, response([], [failing(a, 0x0110), failing(b, 0x0124)])),
            ["rejected", "rejected"],
            "0x0124",
        ),
        (lambda a, b: (409, response([a], [failing(b, 0xC000)])), ["waiting", "rejected"], "0xC000"),
        (lambda a, b: (200, response([a, {**b, "00081150": a["00081155"]}])), ["delivered", "waiting"], "contradicts"),
        (lambda a, b: (200, {}), ["waiting", "waiting"], "without saying"),
        (lambda a, b: (200, b"<xml/>"), ["waiting", "waiting"], "without saying"),
        (lambda a, b: (200, [1, 2]), ["waiting", "waiting"], "without saying"),
        (lambda a, b: (401, b""), ["rejected", "rejected"], "credentials"),
        (lambda a, b: (403, b""), ["rejected", "rejected"], "credentials"),
        (lambda a, b: (404, b""), ["rejected", "rejected"], "check url"),
        (lambda a, b: (307, b"", {"Location": "/elsewhere"}), ["rejected", "rejected"], "points elsewhere"),
        (lambda a, b: (503, b""), ["waiting", "waiting"], "503"),
        (lambda a, b: (500, b""), ["waiting", "waiting"], "500"),
        (lambda a, b: (429, b""), ["waiting", "waiting"], "429"),
    ],
)
def test_each_instance_is_judged_by_what_is_said_of_it(
    settings: Settings,
    catalogue: Catalogue,
    server: WebServer,
    job: str,
    answer: Callable[[Any, Any], Reply],
    wanted: list[str],
    said: str,
) -> None:
    server.answer = lambda request: answer(*references(request))
    Delivery(settings, catalogue).step()
    assert states(catalogue) == wanted
    assert said in rows(catalogue)[1].answer
    ended = {"rejected": "failed", "waiting": "delivering", "delivered": "completed"}
    worst = next(state for state in ended if state in wanted)
    assert job_state(catalogue, job) == ended[worst]


@pytest.mark.parametrize("status", [400, 409, 413, 415])
def test_one_bad_instance_keeps_no_other_back(
    settings: Settings, catalogue: Catalogue, server: WebServer, job: str, status: int
) -> None:
    bad = rows(catalogue)[0].sop_instance_uid.encode()
    server.answer = lambda request: (status, b"") if bad in request.content else stores(request)
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["rejected", "delivered"]
    assert [len(one.parts()) for one in server.requests] == [2, 1, 1]


def test_a_server_that_is_away_is_tried_again(
    settings: Settings, catalogue: Catalogue, server: WebServer, job: str
) -> None:
    server.stop()
    delivery = Delivery(settings, catalogue)
    delivery.step()
    assert states(catalogue) == ["waiting", "waiting"]
    assert "does not answer" in rows(catalogue)[0].answer
    server.start()
    make_due(catalogue)
    delivery.step()
    assert states(catalogue) == ["delivered", "delivered"]
    server.stop()
    server.start()


def test_a_changed_file_is_never_sent(settings: Settings, catalogue: Catalogue, server: WebServer, job: str) -> None:
    (settings.results_dir / "1/0-SEG.dcm").write_bytes(b"changed")
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["rejected", "delivered"]
    assert len(server.requests[0].parts()) == 1


# --- what need not be taken ---


def test_an_optional_object_that_is_not_taken_is_withdrawn(
    tmp_path: Path, server: WebServer, catalogue: Catalogue
) -> None:
    settings = settings_of(tmp_path, server.url, 'results = ["SEG", "SR", "SC"]')
    job = waiting_job(catalogue, settings, kinds=(("SEG", MR), ("SR", MR), ("SC", SECONDARY_CAPTURE)))

    def no_pictures(request: Request) -> Reply:
        all_ = references(request)
        failed = [failing(o, 0x0122) for o in all_ if o["00081150"]["Value"] == [SECONDARY_CAPTURE]]
        return 202, response([o for o in all_ if o["00081150"]["Value"] != [SECONDARY_CAPTURE]], failed)

    server.answer = no_pictures
    Delivery(settings, catalogue).step()
    assert by_result(catalogue) == {"0-SEG": "delivered", "1-SR": "delivered", "2-SC": "withdrawn"}
    assert any("0x0122" in row.answer for row in rows(catalogue) if row.state == "withdrawn")
    assert job_state(catalogue, job) == "completed"
    with catalogue.read() as connection:
        assert [one["role"] for one in overview.results(connection, job) if one["state"] == "withdrawn"] == ["SC"]


LADDER: Any = {
    "kinds": (("SR", MR), ("SEG", MR), ("SR", MR), ("LABELMAP", LABEL_MAP)),
    "variants": {0: "binary", 1: "binary", 2: "labelmap", 3: "labelmap"},
}


@pytest.mark.parametrize("taken", [True, False])
def test_a_label_map_goes_first_and_segments_go_where_it_is_not_taken(
    tmp_path: Path, server: WebServer, catalogue: Catalogue, taken: bool
) -> None:
    settings = settings_of(tmp_path, server.url, 'results = ["SEG", "SR", "LABELMAP"]')
    job = waiting_job(catalogue, settings, **LADDER)

    def answer(request: Request) -> Reply:
        all_ = references(request)
        refused = [o for o in all_ if o["00081150"]["Value"] == [LABEL_MAP] and not taken]
        return 202, response([o for o in all_ if o not in refused], [failing(o, 0x0122) for o in refused])

    server.answer = answer
    Delivery(settings, catalogue).step()
    gone = ["withdrawn", "withdrawn", "delivered", "delivered"]
    assert list(by_result(catalogue).values()) == (gone if taken else gone[::-1])
    assert [len(one.parts()) for one in server.requests] == ([1, 1] if taken else [1, 2])
    assert job_state(catalogue, job) == "completed"
    with catalogue.read() as connection:
        told = [(one["role"], one["answer"]) for one in outbox.not_taken_by(connection)]
    refused = "web does not accept this kind of object (0x0122); segments are sent instead"
    assert told == ([] if taken else [("LABELMAP", refused)])


# --- secrets and TLS ---


def test_the_token_is_read_at_each_use_and_said_nowhere(
    tmp_path: Path, server: WebServer, catalogue: Catalogue, capfd: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("first-secret\n")
    settings = settings_of(tmp_path, server.url, 'auth = "bearer:token"')
    waiting_job(catalogue, settings)
    server.answer = lambda request: (503, b"")
    delivery = Delivery(settings, catalogue)
    delivery.step()
    token.write_text("second-secret")
    make_due(catalogue)
    delivery.step()
    assert [one.headers["authorization"] for one in server.requests] == ["Bearer first-secret", "Bearer second-secret"]
    token.unlink()
    make_due(catalogue)
    delivery.step()
    assert "cannot be read" in rows(catalogue)[0].answer
    token.write_text("two\nlines: of-secret")
    make_due(catalogue)
    delivery.step()
    assert len(server.requests) == 2
    said = "".join(capfd.readouterr()) + "".join(row.answer for row in rows(catalogue))
    assert "secret" not in said


def test_basic_credentials(tmp_path: Path, server: WebServer, catalogue: Catalogue) -> None:
    (tmp_path / "who").write_text("curie:pass:word\n")
    settings = settings_of(tmp_path, server.url, 'auth = "basic:who"')
    waiting_job(catalogue, settings)
    Delivery(settings, catalogue).step()
    assert server.requests[0].headers["authorization"] == "Basic Y3VyaWU6cGFzczp3b3Jk"


def test_tls_trusts_the_ca_of_the_settings_and_no_other(tmp_path: Path, catalogue: Catalogue) -> None:
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.for_address("127.0.0.1")
    server = WebServer(stores, (str(certificate), str(key)))
    server.start()
    try:
        stranger = settings_of(tmp_path, server.url)
        waiting_job(catalogue, stranger)
        Delivery(stranger, catalogue).step()
        assert states(catalogue) == ["waiting", "waiting"]
        assert "certificate is not trusted" in rows(catalogue)[0].answer
        assert server.requests == []
        make_due(catalogue)
        Delivery(settings_of(tmp_path, server.url, 'ca = "authority/ca.pem"'), catalogue).step()
        assert states(catalogue) == ["delivered", "delivered"]
        missing = settings_of(tmp_path, server.url, 'ca = "nowhere.pem"').destinations[0]
        with pytest.raises(Unreachable, match="cannot be read as certificates"):
            web.ask(missing, server.url, "GET", "/studies")
    finally:
        server.stop()


# --- curie destinations test ---


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (lambda method: (200, []), "answers QIDO-RS with 200"),
        (lambda method: (204, b""), "answers QIDO-RS with 204"),
        (lambda method: (404, b"") if method == "GET" else (204, b""), "answers OPTIONS"),
        (lambda method: (405, b"", {"Allow": "POST"}), "answers OPTIONS"),
    ],
)
def test_a_probe_stores_nothing(
    settings: Settings, server: WebServer, answer: Callable[[str], Reply], wanted: str
) -> None:
    server.answer = lambda request: answer(request.method)
    assert wanted in dicomweb.probe(settings.destinations[0])
    assert all(one.method != "POST" for one in server.requests)


@pytest.mark.parametrize(("status", "error"), [(401, Refused), (404, Refused), (503, Unreachable)])
def test_a_probe_says_no(settings: Settings, server: WebServer, status: int, error: type[Exception]) -> None:
    server.answer = lambda request: (status, b"")
    with pytest.raises(error, match=str(status)):
        dicomweb.probe(settings.destinations[0])


def test_the_command_covers_both_kinds(tmp_path: Path, server: WebServer) -> None:
    server.answer = lambda request: (200, [])
    file = tmp_path / "curie.toml"
    file.write_text(f'[[destinations]]\nname = "web"\nurl = "{server.url}"\n')
    done = CliRunner().invoke(app, ["destinations", "test", "--json", "--config", str(file)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)[0]["ok"]
    listed = CliRunner().invoke(app, ["destinations", "list", "--config", str(file)])
    assert listed.exit_code == 0
    server.answer = lambda request: (401, b"")
    done = CliRunner().invoke(app, ["destinations", "test", "--json", "--config", str(file)])
    assert done.exit_code == 1
    assert "401" in json.loads(done.output)[0]["answer"]


def test_find_beside_a_url_asks_nobody(tmp_path: Path, catalogue: Catalogue, server: WebServer) -> None:
    settings = settings_of(tmp_path, server.url, "find = true")
    job = waiting_job(catalogue, settings)
    Delivery(settings, catalogue).step()
    assert job_state(catalogue, job) == "completed"


@pytest.mark.parametrize("status", [200, 404])
def test_a_web_destination_with_find_must_answer_a_search(tmp_path: Path, status: int) -> None:
    server = WebServer(lambda request: (status if request.method == "GET" else 200, []))
    server.start()
    (there,) = check_destinations(settings_of(tmp_path, server.url, "find = true"))
    server.stop()
    assert there.ok is (status == 200)
    assert ("set find = false" in there.text) is (status == 404)

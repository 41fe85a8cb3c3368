"""`curie doctor` asks real sockets: who is there, who is not, and who is somebody else."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from sqlalchemy import insert

from appliance.catalogue import open_catalogue, packages
from appliance.catalogue.tables import event
from appliance.doctor import check_clock, check_console, check_gpu, check_packages, examine
from appliance.neighbours import check_alerts, check_coordinator, check_sources, check_tracing
from appliance.settings import Settings, load
from tests.appliance.cli.in_process import curie
from tests.certificates import Authority
from tests.web_server import WebServer


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


def test_a_clock_that_went_back_is_seen(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "")
    assert check_clock(settings).ok
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    with catalogue.write() as connection:
        ahead = datetime.now(UTC) + timedelta(seconds=90)
        connection.execute(insert(event).values(at=ahead, kind="x", study_instance_uid="", job_id="", detail={}))
    catalogue.close()
    look = check_clock(settings)
    assert not look.ok
    assert re.fullmatch(r"the catalogue is (89|90) s ahead of this host", look.text)


def test_a_gpu_that_the_settings_name_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path, '[worker]\ndevice = "cuda:1"\n')
    monkeypatch.setattr("appliance.doctor.gpus", lambda: ["NVIDIA L4, 580.1, 23034 MiB"])
    (look,) = check_gpu(settings)
    assert (look.ok, look.text) == (False, "worker.device is cuda:1, 1 GPUs have a driver here")
    monkeypatch.setattr("appliance.doctor.gpus", lambda: ["NVIDIA L4, 580.1, 23034 MiB"] * 2)
    assert [one.ok for one in check_gpu(settings)] == [True, True]


def test_a_coordinator_that_is_away_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        table = f'[federation]\ncoordinator = "grpcs://127.0.0.1:{port}"\nkit = "kit"\n'
        assert [one.ok for one in check_coordinator(settings_of(tmp_path, table))] == [True]
    (look,) = check_coordinator(settings_of(tmp_path, table))
    assert not look.ok
    assert f"127.0.0.1:{port}" in look.text


def test_a_package_says_what_it_runs_on_and_a_gpu_that_is_not_used_is_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path, '[[routes]]\nname = "r"\npackage = "hippocampus"\n')
    (look,) = check_packages(settings)
    assert look.ok
    assert "not loaded on this host yet" in look.text
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    with catalogue.write() as connection:
        (digest,) = [one.digest for one in packages.versions(connection, "hippocampus") if one.state == "active"]
        told = {"host": socket.gethostname(), "device": "cpu", "package_digest": digest, "engine": "openvino",
                "precision": "f32", "skipped": [], "parity": [], "memory_mb": None}  # fmt: skip
        packages.keep_engine_report(connection, told, datetime.now(UTC))
    catalogue.close()
    (look,) = check_packages(settings)
    assert look.ok
    assert "runs on openvino f32, parity held on 20" in look.text
    monkeypatch.setattr("appliance.doctor.gpus", lambda: ["NVIDIA L4, 580.1, 23034 MiB"])
    (look,) = check_packages(settings)
    assert not look.ok
    assert "though there is a GPU" in look.text


def test_who_is_told_of_alarms_must_take_connections_and_hears_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = (
            f'[alerts]\nwebhook = "http://127.0.0.1:{port}/hooks/secret"\nsmtp = "smtp://127.0.0.1:{port}?to=a@b.org"\n'
            f'[tracing]\notlp = "http://127.0.0.1:{port}"\n'
        )
        settings = settings_of(tmp_path, text)
        found = [*check_alerts(settings), *check_tracing(settings)]
        assert [(one.name, one.ok) for one in found] == [
            ("alerts webhook", True), ("alerts smtp", True), ("tracing", True)
        ]  # fmt: skip
        for _ in found:
            heard, _address = server.accept()
            with heard:
                assert heard.recv(1) == b""
    webhook, smtp, tracing = [*check_alerts(settings), *check_tracing(settings)]
    assert (webhook.ok, smtp.ok, tracing.ok) == (False, False, False)
    assert "refused" in webhook.text
    assert "secret" not in f"{webhook}"


def test_a_webhook_s_certificate_must_be_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = WebServer(lambda request: (200, []), authority.for_address("127.0.0.1"))
    server.start()
    (look,) = check_alerts(settings_of(tmp_path, f'[alerts]\nwebhook = "https://127.0.0.1:{server.port}/"\n'))
    server.stop()
    assert "certificate" in look.text.lower()
    assert (look.ok, server.requests) == (False, [])


def test_a_catalogue_that_does_not_open_ends_no_other_check(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "r"\npackage = "hippocampus"\n'
    (tmp_path / "file").write_text("")
    for text in (
        '[catalogue]\nurl = "nonsense"\n', '[appliance]\ndata_dir = "file/data"\n',
        f'[catalogue]\nurl = "sqlite:///{tmp_path}/curie.toml"\n',
    ):  # fmt: skip
        found = {one.name: one for one in examine(settings_of(tmp_path, text + route))}
        assert {"catalogue", "clock", "packages", "console", "sources"} <= found.keys()
        for name in ("catalogue", "clock", "packages"):
            assert (found[name].ok, bool(found[name].remedy)) == (False, True), found[name]
        assert "the catalogue does not open" in found["packages"].text


def test_a_trusted_key_that_is_not_there_is_no_fault_of_a_package(tmp_path: Path) -> None:
    text = '[[routes]]\nname = "r"\npackage = "hippocampus"\n[models]\ntrusted_keys = ["gone.pub"]\n'
    (look,) = check_packages(settings_of(tmp_path, text))
    assert not look.ok
    assert look.text.startswith(f"models.trusted_keys: no public key can be read at {tmp_path}/gone.pub")


@pytest.mark.parametrize(("more", "said"), [("", True), ('url = "https://curie.example.org"\n', False)])
def test_a_console_for_everybody_without_tls_is_remarked(tmp_path: Path, free_port: int, more: str, said: bool) -> None:
    look = check_console(settings_of(tmp_path, f'[console]\nhost = "0.0.0.0"\nport = {free_port}\n{more}'))
    assert look.ok
    assert ("in the clear" in look.text) is said


def test_a_line_that_is_ok_holds_no_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.doctor.clock_is_kept", lambda: False)
    look = check_clock(settings_of(tmp_path, ""))
    assert (look.ok, look.text) == (True, "goes with the catalogue; the kernel knows of no time server")


def test_a_sentence_ends_once(tmp_path: Path, free_port: int) -> None:
    away = f'[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {free_port}\n'
    (tmp_path / "curie.toml").write_text(away)
    said = " ".join(curie("doctor", "--config", str(tmp_path / "curie.toml")).stdout.split())
    assert "are host and port right? Results wait" in said

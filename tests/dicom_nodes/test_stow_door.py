"""The second door's threshold: who may store, how much, how slowly, over TLS; and the process that serves it."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_nodes import stow, stow_door
from dicom_nodes.arrivals import AssociationOpened
from tests.acceptance.door import Door as ReceiverProcess
from tests.acceptance.door import Gauge
from tests.certificates import Authority
from tests.dicom_nodes.conftest import SETTINGS, Second
from tests.dicom_nodes.test_dimse import parts
from tests.raw_peer import EXPLICIT, MR, RawPeer
from tests.web_peer import BOUNDARY, answer_of, body, head, instance, part, post, raw

STORED, FAILED = "00081199", "00081198"
Open = Callable[..., Second]


# --- who may, and what ---


def test_strangers_are_turned_away_before_anything_is_said(open_second: Open) -> None:
    second = open_second(text=SETTINGS.replace("127.0.0.0/8", "127.0.0.2/32"))
    for path in ("/studies", "/nowhere"):
        content = body([instance("1.2.3", bytes(700_000))])  # the answer reaches one who is still sending
        answer = post(second.port, content, path, headers={"X-Forwarded-For": "127.0.0.2"})
        assert (answer.status, answer.content) == (403, b"")
    assert second.door.told == []
    assert second.door.acceptor.refused == {"unknown source": 2}
    assert post(second.port, body([instance("1.2.3")]), source="127.0.0.2").status == 200


def test_strangers_are_taken_where_the_settings_say_so(open_second: Open) -> None:
    text = SETTINGS.replace("127.0.0.0/8", "127.0.0.2/32")
    second = open_second('unknown_sources = "accept"\nmax_associations_per_address = 2', text)
    assert second.post(instance("1.2.3")).status == 200
    opened = second.door.told[0]
    assert isinstance(opened, AssociationOpened)
    assert opened.ae_title == "STOW"
    crowd = [raw(second.port) for _ in range(2)]
    began = time.monotonic()
    third = raw(second.port)
    assert third.recv(1) == b""
    assert time.monotonic() - began < 2, "as many connections of an address as it may have associations"
    for one in (*crowd, third):
        one.close()


MEDIA_TYPES = {
    "application/dicom": 415,
    "multipart/form-data; boundary=x": 415,
    f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}': 415,
    f"multipart/related; boundary={BOUNDARY}": 415,
    'multipart/related; type="application/dicom"': 400,
    'multipart/related; type="application/dicom"; boundary=' + "x" * 71: 400,
    "": 415,
    ";;;=": 415,
}


def test_other_media_types_are_refused(second: Second) -> None:
    for kind, status in MEDIA_TYPES.items():
        assert post(second.port, body([instance("1.2.3")]), headers={"Content-Type": kind}).status == status, kind


def test_only_storing_is_served(second: Second) -> None:
    answer = post(second.port, b"", method="GET")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    for path in ("/", "/studies/1.2/series", "/dicom-web", "/Studies", "/studies/1.2/../.."):
        assert post(second.port, b"", path).status == 404
    assert post(second.port, body([instance("1.2.3")]), "/studies/1.2a").status == 400
    assert post(second.port, b"", headers={"Content-Encoding": "gzip"}).status == 415


# --- limits ---


def test_an_instance_beyond_the_limit_fails_and_one_far_beyond_ends_the_request(open_second: Open) -> None:
    second = open_second("max_instance_gb = 0.0001")  # 107 kB
    answer = second.post(instance("1.2.1"), instance("1.2.2", bytes(150_000)), instance("1.2.3"))
    assert (answer.status, answer.uids(STORED), answer.reasons(FAILED)) == (202, ["1.2.1", "1.2.3"], [0xA700])
    assert second.post(instance("1.2.1"), instance("1.2.2", bytes(300_000))).status == 413
    second.door.wait(second.is_clean)


def test_a_request_beyond_the_limit_is_too_large_before_and_while_it_comes(open_second: Open) -> None:
    second = open_second("max_association_gb = 0.0001")
    connection = raw(second.port, head(10**9))
    assert answer_of(connection).status == 413
    connection.close()
    assert second.door.told == []
    chunks = [part(instance("1.2.1")), part(instance("1.2.2")), *[bytes(1000)] * 200]
    assert post(second.port, chunks).status == 413
    second.door.wait(second.is_clean)


def test_more_instances_than_an_answer_can_name_are_too_many(second: Second, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_nodes.store_transaction.MOST_INSTANCES", 2)
    assert second.post(*[instance(f"1.2.{n}") for n in range(3)]).status == 413


def test_low_disk_and_no_place_ask_to_come_again(open_second: Open) -> None:
    second = open_second("max_associations_per_source = 1")
    with RawPeer(second.door.address) as peer:
        peer.associate([(1, MR, [EXPLICIT])])
        assert peer.store("1.2.9", b"brought") == 0
        answer = second.post(instance("1.2.3"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "30")
        peer.release()
    second.door.wait(lambda: second.door.places.count() == 0)
    assert second.post(instance("1.2.3")).status == 200
    second.door.spool.reserve_bytes = 10**18
    time.sleep(0.3)  # the free space is looked at a few times a second
    assert second.post(instance("1.2.3")).status == 503
    assert second.door.acceptor.refused["free space is below spool.reserve_gb"] == 1


def test_a_silent_request_that_brought_nothing_gives_its_place_up(open_second: Open) -> None:
    second = open_second("max_associations_per_source = 1")
    silent = raw(second.port, head(1000), b"\r\n--")
    second.door.wait(lambda: second.door.places.count() == 1)
    second.door.wait(lambda: second.post(instance("1.2.3")).status == 200)
    assert answer_of(silent).status == 503
    silent.close()


def test_slow_peers_are_cut(second: Second, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "SILENCE_S", 0.2)
    monkeypatch.setattr(stow_door, "SETUP_S", 0.3)
    silent, partial = raw(second.port), raw(second.port, head(1000)[:20])
    began = time.monotonic()
    slow = raw(second.port, head(1000), part(b"")[:20])
    assert answer_of(slow).status == 408
    assert second.ended().aborted is True
    for one in (silent, partial):
        try:
            assert one.recv(1) == b""
        except ConnectionResetError:
            pass
    assert time.monotonic() - began < 4
    for one in (silent, partial, slow):
        one.close()
    second.door.wait(second.is_clean)


def test_what_is_no_http_is_cut(second: Second) -> None:
    negative = head(1000).replace(b"1000", b"-1")
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"X" * 40_000, negative):
        connection = raw(second.port, sent)
        try:
            assert connection.recv(12) in (b"HTTP/1.1 400", b"")
        except ConnectionResetError:
            pass
        connection.close()
    assert second.post(instance("1.2.3")).status == 200


def test_the_door_ends_in_time_with_a_request_open(second: Second) -> None:
    connection = raw(second.port, head(10**6), part(instance("1.2.1", bytes(200_000))))
    second.door.wait(lambda: parts(second.door))
    began = time.monotonic()
    second.server.stop()
    assert time.monotonic() - began < 2.5
    assert second.ended().aborted is True
    assert second.is_clean()
    connection.close()


# --- TLS ---

TLS = '[receiver.tls]\nport = {port}\ncertificate = "{0}"\nkey = "{1}"\nca = "{ca}"\n[spool]'


def test_over_tls_the_certificate_says_who_it_is(open_second: Open, tmp_path: Path, free_port: int) -> None:
    authority = Authority(tmp_path / "tls")
    scanner, other, ours = authority.issue("scanner"), authority.issue("other"), authority.issue("curie")
    foreign = Authority(tmp_path / "foreign", "foreign").issue("scanner")
    port = free_port + 1 if free_port < 65535 else free_port - 1
    text = SETTINGS.replace('ae_title = "SCANNER"', f'ae_title = "SCANNER"\nfingerprint = "{scanner[2]}"')
    second = open_second(text=text.replace("[spool]", TLS.format(*ours, port=port, ca=authority.file)))
    content = body([instance("1.2.3")])
    assert post(second.port, content, tls=authority.client(scanner)).status == 200
    opened = second.door.told[0]
    assert isinstance(opened, AssociationOpened)
    assert opened.ae_title == "SCANNER"
    assert post(second.port, content, tls=authority.client(other)).status == 403
    assert post(second.port, content, tls=authority.client(scanner), source="127.0.0.1").status == 200
    for certificate in (None, foreign):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            post(second.port, content, tls=authority.client(certificate))
    with pytest.raises((OSError, ValueError)):
        post(second.port, content)
    assert second.door.acceptor.refused["TLS handshake failed"] >= 2
    assert second.door.acceptor.refused["a source with a certificate came without it"] == 1
    assert len(second.door.kept()) == 2


# --- the process ---


def test_the_receiver_opens_it_and_a_large_part_costs_no_memory(tmp_path: Path, stow_port: int) -> None:
    door = ReceiverProcess(tmp_path, f"stow = true\nstow_port = {stow_port}")
    door.start()
    try:
        assert post(stow_port, body([instance("1.2.1", bytes(10**6))])).status == 200
        gauge = Gauge(door.acceptors())
        start, end = part(instance("1.2.2", b"")), body([])
        piece = os.urandom(1 << 20)
        connection = raw(stow_port, head(len(start + end) + 200 * len(piece)), start)
        for _ in range(200):
            connection.sendall(piece)
        connection.sendall(end)
        answer = answer_of(connection)
        connection.close()
        assert (answer.status, answer.uids(STORED)) == (200, ["1.2.2"])
        assert (growth := gauge.growth()) < 8, f"{growth} MB"
    finally:
        assert door.stop() == 0

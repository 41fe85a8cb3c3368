"""Before the association: slow, silent, lying and encrypted peers. None of them keeps an honest one waiting."""

from __future__ import annotations

import socket
import ssl
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_nodes import lobby
from tests import raw_peer
from tests.certificates import Authority
from tests.dicom_nodes.conftest import SETTINGS, OpenDoor
from tests.raw_peer import ABORT, AC, COMMAND, EXPLICIT, LAST, MR, VERIFICATION, RawPeer, command, data, fragment

Door = Callable[..., OpenDoor]
TLS = """
[receiver.tls]
port = {tls_port}
certificate = "{certificate}"
key = "{key}"
ca = "{ca}"
"""


def echo_s(door: OpenDoor) -> float:
    """Return how long an honest association with one C-ECHO takes."""
    began = time.monotonic()
    with RawPeer(door.address) as peer:
        peer.associate([(1, VERIFICATION, [EXPLICIT])])
        peer.send(data(fragment(1, COMMAND | LAST, command(raw_peer.C_ECHO, 1, VERIFICATION, dataset=False))))
        assert peer.status(1) == 0
        peer.release()
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (raw_peer.pdu(raw_peer.RELEASE_RQ), 2),
        (raw_peer.pdu(raw_peer.DATA, b"x"), 2),
        (raw_peer.pdu(raw_peer.AC, bytes(70)), 2),
        (raw_peer.pdu(0x99), 1),
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (b"\1\0\xff\xff\xff\xff", 6),
        (b"\1\0\0\4\0\1", 6),
        (b"\1\0\0\0\0\4abcd", 6),
        (raw_peer.pdu(1, b"\0\1\0\0" + b"\n" * 76), 6),
    ],
)
def test_what_is_no_request_is_answered_by_an_abort(open_door: Door, sent: bytes, reason: int) -> None:
    door = open_door()
    with RawPeer(door.address) as peer:
        peer.send(sent)
        kind, body = peer.pdu()
        assert peer.pdu() == (0, b"")
    assert kind == ABORT
    assert body[2:] == bytes((2, reason))
    assert sum(door.acceptor.refused.values()) == 1


def test_a_request_that_comes_in_drops_is_taken_and_one_that_never_ends_is_cut(
    open_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lobby, "SETUP_S", 1.5)
    door = open_door()
    sent = raw_peer.request([(1, MR, [EXPLICIT])])
    with RawPeer(door.address) as peer, RawPeer(door.address) as loris:
        loris.send(sent[:10])
        for at in range(0, len(sent), 20):
            peer.send(sent[at : at + 20])
            time.sleep(0.02)
        assert peer.pdu()[0] == AC
        assert loris.pdu() == (0, b"")
    assert door.acceptor.refused["no request in time"] == 1


def test_a_crowd_of_silent_peers_keeps_nobody_waiting(open_door: Door) -> None:
    door = open_door("max_associations = 4")
    crowd = [RawPeer(door.address, source=f"127.0.1.{n % 50 + 1}") for n in range(lobby.MOST + 40)]
    for peer in crowd[::3]:
        peer.send(b"\1\0\0")
    assert echo_s(door) < 1
    door.wait(lambda: door.places.count() == 0)
    for peer in crowd:
        peer.socket.close()
    door.wait(lambda: sum(door.acceptor.refused.values()) > lobby.MOST, 10)


def test_an_address_of_no_source_may_send_few_at_once(open_door: Door) -> None:
    listed = 'hosts = ["127.0.0.0/8"]'
    door = open_door("max_associations_per_address = 3", SETTINGS.replace(listed, 'hosts = ["127.0.0.1/32"]'))
    crowd = [RawPeer(door.address, source="127.0.9.9") for _ in range(10)]
    door.wait(lambda: door.acceptor.refused.get("too many connections of this address") == 7)
    assert echo_s(door) < 1
    for peer in crowd:
        peer.socket.close()


def test_a_flood_of_request_bytes_is_bounded(open_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "MOST_BYTES", 300_000)
    door = open_door()
    head = b"\1\0" + (256 * 1024).to_bytes(4, "big")
    crowd = [RawPeer(door.address) for _ in range(5)]
    for peer in crowd:
        try:
            peer.send(head + bytes(200_000))
        except OSError:
            continue
    door.wait(lambda: door.acceptor.refused.get("lobby full", 0) >= 3)
    assert echo_s(door) < 1
    for peer in crowd:
        peer.socket.close()


# --- TLS ---


@pytest.fixture
def tls_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Secure:
    """A receiver with a TLS port, and the certificates to come with."""

    def __init__(self, open_door: Door, folder: Path, port: int) -> None:
        self.authority = Authority(folder)
        self.scanner = self.authority.issue("scanner")
        self.other = self.authority.issue("other")
        certificate, key, _ = self.authority.issue("curie")
        part = TLS.format(tls_port=port, certificate=certificate, key=key, ca=self.authority.file)
        bound = f'ae_title = "SCANNER"\nfingerprint = "{self.scanner[2]}"'
        self.door = open_door(text=SETTINGS.replace('ae_title = "SCANNER"', bound).replace("[spool]", f"{part}[spool]"))
        self.port = port

    def associate(self, certificate: tuple[Path, Path, str] | None, calling: str = "SCANNER", source: str = "") -> int:
        """Return the type of the PDU that answers an A-ASSOCIATE-RQ over TLS."""
        context = self.authority.client(certificate)
        plain = socket.create_connection(("127.0.0.1", self.port), 5, (source, 0) if source else None)
        with context.wrap_socket(plain) as connection:
            connection.sendall(raw_peer.request([(1, MR, [EXPLICIT])], calling=calling))
            head = connection.recv(6)
            return head[0] if head else 0


@pytest.fixture
def secure(open_door: Door, tmp_path: Path, tls_port: int) -> Secure:
    return Secure(open_door, tmp_path / "tls", tls_port)


def test_only_the_bound_certificate_is_the_source(secure: Secure, tmp_path: Path) -> None:
    assert secure.associate(secure.scanner) == AC
    assert secure.associate(secure.other) == raw_peer.RJ
    assert secure.associate(secure.scanner, calling="STRANGER") == raw_peer.RJ
    with RawPeer(secure.door.address) as peer:
        peer.send(raw_peer.request([(1, MR, [EXPLICIT])]))
        assert peer.pdu()[0] == raw_peer.RJ, "in the clear, with the right title"


def test_strangers_to_the_ca_and_old_versions_are_cut(secure: Secure, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign", "foreign").issue("scanner")
    for certificate in (None, foreign):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            assert secure.associate(certificate) == AC
    context = secure.authority.client(secure.scanner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", secure.port), 5) as plain:  # noqa: PT011
        context.wrap_socket(plain)
    secure.door.wait(lambda: secure.door.acceptor.refused.get("TLS handshake failed", 0) >= 3)


def test_instances_come_over_tls_as_they_are(secure: Secure) -> None:
    context = secure.authority.client(secure.scanner)
    plain = socket.create_connection(("127.0.0.1", secure.port), 5)
    with context.wrap_socket(plain) as connection:
        peer = RawPeer.__new__(RawPeer)
        peer.socket = connection
        peer.associate()
        content = bytes(range(256)) * 4000
        for number in range(3):
            asked = fragment(1, COMMAND | LAST, command(raw_peer.C_STORE, number, MR, f"1.2.{number}"))
            peer.send(data(asked) + data(fragment(1, 0, content[:100_000])) + data(fragment(1, LAST, content[:77_000])))
            assert peer.status(number) == 0
        peer.release()
    kept = secure.door.wait(lambda: secure.door.kept() if len(secure.door.kept()) == 3 else None)
    assert all(one.endswith(content[:100_000] + content[:77_000]) for one in kept)


def test_silent_tls_clients_keep_nobody_waiting(secure: Secure) -> None:
    crowd = [socket.create_connection(("127.0.0.1", secure.port)) for _ in range(50)]
    for one in crowd[::2]:
        one.sendall(b"\x16\x03\x01\x02\x00\x01")
    began = time.monotonic()
    assert secure.associate(secure.scanner) == AC
    assert time.monotonic() - began < 1
    for one in crowd:
        one.close()

"""Hostile peers against real receiver processes: memory stays, honest peers are served, nothing leaves the spool."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.door import Door, Gauge, timed_echo
from tests.acceptance.house import wait_for
from tests.raw_peer import (
    ABORT,
    AC,
    C_STORE,
    COMMAND,
    EXPLICIT,
    LAST,
    MR,
    RQ,
    RawPeer,
    command,
    data,
    fragment,
    pdu,
    request,
)

pytestmark = pytest.mark.acceptance
MOST_MB = 16
ELSEWHERE = "127.0.0.66"
STORE = fragment(1, COMMAND | LAST, command(C_STORE, 1, MR, "1.2.3"))
HOSTILE = ["../../../../x", "/etc/cron.d/x", "..", "1.2\n3", "$(touch x)", "", "1" * 65, "a/../b", "1.2.3 ", "\x1b[31m"]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A receiver that takes everybody in, so that attackers get as far as they can."""
    made = Door(tmp_path_factory.mktemp("door"), 'unknown_sources = "accept"\nmax_instance_gb = 0.02')
    made.start()
    timed_echo(made.port)
    yield made
    assert made.stop() == 0


def cut_after(peer: RawPeer, seconds: float) -> float:
    """Return when the peer is cut off; fails when it is not within `seconds`."""
    began = time.monotonic()
    peer.socket.settimeout(seconds)
    with suppress(ConnectionError):
        while peer.socket.recv(65536):
            pass
    return time.monotonic() - began


def flood(door: Door, content: bytes, block: bytes, most: int) -> tuple[int, float]:
    """Send `content`, then blocks until cut off. Returns how many bytes went out, and the seconds."""
    began, sent = time.monotonic(), 0
    with RawPeer(("127.0.0.1", door.port), source=ELSEWHERE, timeout=30) as peer:
        if content[:1] != b"\1":
            peer.associate(calling="EVIL")
        with suppress(ConnectionError):
            peer.send(content)
            while sent < most:
                peer.send(block)
                sent += len(block)
    return sent, time.monotonic() - began


def test_a_pdu_of_four_gigabytes_is_cut_at_once(door: Door) -> None:
    gauge = Gauge(door.acceptors())
    sent, seconds = flood(door, b"\1\0\xff\xff\xff\xff", bytes(1 << 20), 200 << 20)
    assert sent < 100 << 20
    assert seconds < 2
    sent, seconds = flood(door, b"\4\0\xff\xff\xff\xff", bytes(1 << 20), 200 << 20)
    assert sent < 100 << 20
    assert gauge.growth() <= MOST_MB


def test_command_fragments_without_end_are_cut(door: Door) -> None:
    gauge = Gauge(door.acceptors())
    sent, _ = flood(door, b"", data(fragment(1, COMMAND, bytes(16000))), 250 << 20)
    assert sent < 20 << 20
    assert gauge.growth() <= MOST_MB


def test_a_data_set_without_end_is_cut_and_leaves_nothing(door: Door) -> None:
    gauge = Gauge(door.acceptors())
    sent, _ = flood(door, data(STORE), data(fragment(1, 0, bytes(16000))), 290 << 20)
    assert 20 << 20 < sent < 100 << 20, "twice the limit of an instance"
    assert gauge.growth() <= MOST_MB
    wait_for("no part left", lambda: not door.parts(), 5)


def test_many_contexts_are_answered_quickly(door: Door) -> None:
    sent = request([(2 * n + 1, MR, [f"1.2.840.10008.1.2.4.{s}" for s in range(100, 150)]) for n in range(128)], "EVIL")
    assert len(sent) > 170_000
    with RawPeer(("127.0.0.1", door.port), source=ELSEWHERE) as peer:
        began = time.monotonic()
        peer.send(sent)
        assert peer.pdu()[0] == AC
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (pdu(RQ, request([(1, MR, [EXPLICIT])], "EVIL")[6:74] + b"\x77\0\xff\xff" * 1000), ABORT),
        (
            request([(1, MR, [EXPLICIT])], "EVIL").replace(struct.pack(">BxH", 0x30, len(MR)), b"\x30\0\xff\xff"),
            ABORT,
        ),
        (pdu(RQ, request([(1, MR, [EXPLICIT])], "EVIL")[6:] + b"\x10\0\xff\xff" + b"1" * 65535), AC),
    ],
    ids=["unknown items that are cut", "a lying length", "a whole item of 60 kB"],
)
def test_odd_requests_are_answered(door: Door, sent: bytes, answer: int) -> None:
    with RawPeer(("127.0.0.1", door.port), source=ELSEWHERE) as peer:
        peer.send(sent)
        assert peer.pdu()[0] == answer
    assert timed_echo(door.port) < 1


def test_a_transfer_syntax_without_length_is_answered(door: Door) -> None:
    item = struct.pack(">BxH", 0x40, len(EXPLICIT)) + EXPLICIT.encode()
    whole = request([(1, MR, [EXPLICIT])], "EVIL")
    context = struct.pack(">BxHBxxx", 0x20, 4 + 4 + len(MR) + len(item), 1)
    assert context in whole
    shorter = whole.replace(context, struct.pack(">BxHBxxx", 0x20, 8 + len(MR) + 4, 1)).replace(item, b"\x40\0\0\0")
    with RawPeer(("127.0.0.1", door.port), source=ELSEWHERE) as peer:
        peer.send(pdu(RQ, shorter[6:]))
        assert peer.pdu()[0] in (AC, ABORT)


@pytest.mark.parametrize(
    ("maximum", "works"), [(0, True), (1, False), (6, False), (7, False), (8, True), (2**32 - 1, True)]
)
def test_any_maximum_length_of_the_peer_is_answered(door: Door, maximum: int, works: bool) -> None:
    with RawPeer(("127.0.0.1", door.port), source=ELSEWHERE) as peer:
        peer.send(request([(1, MR, [EXPLICIT])], "EVIL", maximum=maximum))
        assert peer.pdu()[0] == (AC if works else ABORT)
        if not works:
            return
        peer.send(
            data(fragment(1, COMMAND | LAST, command(C_STORE, 1, MR, f"1.2.{maximum}")), fragment(1, LAST, b"x" * 64))
        )
        kind, body = peer.pdu()
        assert kind == 4
        assert len(body) <= (maximum or 2**32)


def test_hostile_uids_leave_no_file_outside_the_spool(door: Door) -> None:
    home = door.file.parent
    known = {"curie.toml", "log", "data"}
    with RawPeer(("127.0.0.1", door.port), source=ELSEWHERE) as peer:
        peer.associate(calling="EVIL")
        statuses = {uid: peer.store(uid, b"x" * 64, message_id=n) for n, uid in enumerate(HOSTILE)}
    assert {uid: status for uid, status in statuses.items() if status != 0xC000} == {
        "1.2.3 ": 0
    }  # padding is no part of it
    assert {path.name for path in home.iterdir()} == known
    log = door.log.read_text()
    assert "\x1b" not in log
    assert all(line.startswith("{") for line in log.splitlines() if line.strip())


def deep(levels: int) -> bytes:
    """Return a data set with sequences in sequences."""
    item = b"\x08\x00\x18\x00UI\x06\x001.2.99"
    for _ in range(levels):
        item = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" + item
    return item


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("random", os.urandom(10_000)),
        ("truncated", b"\x08\x00\x18\x00UI\x40\x00" + b"1.2"),
        ("deep", deep(900)),
        ("tiny elements", b"".join(struct.pack("<HH2sH", 0x0009, n & 0xFFFF, b"LO", 0) for n in range(200_000))),
    ],
    ids=["random", "truncated", "deep", "tiny elements"],
)
def test_what_cannot_be_parsed_is_kept_and_set_aside(door: Door, name: str, content: bytes) -> None:
    asked = fragment(1, COMMAND | LAST, command(C_STORE, 1, MR, f"1.2.77.{len(content)}"))
    pieces = [content[at : at + 100_000] for at in range(0, len(content), 100_000)]
    with RawPeer(("127.0.0.1", door.port), source=ELSEWHERE) as peer:
        peer.associate(calling="EVIL")
        began = time.monotonic()
        last = len(pieces) - 1
        peer.send(data(asked) + b"".join(data(fragment(1, LAST * (n == last), one)) for n, one in enumerate(pieces)))
        assert peer.status(1) == 0
        assert time.monotonic() - began < 1, "nothing is decoded before the answer"
        peer.release()
    assert timed_echo(door.port) < 1
    kept = [path for path in door.spool.glob("??/*.dcm") if path.read_bytes().endswith(content)]
    assert len(kept) == 1
    path = str(kept[0].relative_to(door.spool))
    wait_for("its row", lambda: door.indexed().get(path) == "unreadable", 60)


def test_honest_peers_are_served_during_200_hostile_connections(door: Door) -> None:
    seconds = 60
    gauge = Gauge(door.acceptors())
    attack = subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.attackers", str(door.port), str(seconds), "200"],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    took: list[float] = []
    refused = 0
    while attack.poll() is None:
        try:
            took.append(timed_echo(door.port))
        except (AssertionError, OSError):
            refused += 1
        time.sleep(0.05)
    made = json.loads(attack.communicate()[0])
    took.sort()
    p99 = took[int(len(took) * 0.99)]
    print(
        f"echoes {len(took)}, refused {refused}, p50 {took[len(took) // 2]:.3f} s, p99 {p99:.3f} s, "
        f"RSS +{gauge.growth():.1f} MB, {made}"
    )
    assert sum(made.values()) > 1000
    assert len(took) > 100
    assert refused <= len(took) // 200
    assert p99 < 1
    assert gauge.growth() <= MOST_MB
    wait_for("all places free", lambda: gauge.threads() <= gauge.threads_before, 20)


def test_10000_connections_leave_nothing_behind(door: Door) -> None:
    def connect(number: int) -> None:
        with suppress(OSError), RawPeer(("127.0.0.1", door.port), source=ELSEWHERE) as peer:
            if number % 3 == 0:
                peer.send(request([(1, MR, [EXPLICIT])], "EVIL"))
                if number % 2:
                    peer.pdu()
            elif number % 3 == 1:
                peer.send(b"\1\0\0")

    for number in range(500):  # what the first ones load is no growth
        connect(number)
    wait_for("quiet", lambda: timed_echo(door.port) < 1, 10)
    time.sleep(2)
    gauge = Gauge(door.acceptors())
    for number in range(10_000):
        connect(number)
    time.sleep(2)
    assert timed_echo(door.port) < 1
    wait_for("threads as before", lambda: gauge.threads() <= gauge.threads_before, 15)
    wait_for("descriptors as before", lambda: gauge.descriptors() <= gauge.descriptors_before, 15)
    assert gauge.growth() <= MOST_MB
    assert gauge.rss() - gauge.rss_before <= 4


def test_half_open_connections_of_every_address_are_cut_in_time(door: Door) -> None:
    crowd = [RawPeer(("127.0.0.1", door.port), source=f"127.0.5.{n + 1}", timeout=30) for n in range(40)]
    for peer in crowd[::2]:
        peer.send(b"\1\0\0\0\0\x64abc")
    assert timed_echo(door.port) < 1
    assert cut_after(crowd[-1], 20) < 15
    assert cut_after(crowd[-2], 5) < 3
    for peer in crowd:
        peer.socket.close()


def test_refusals_are_counted_by_reason_in_status(door: Door) -> None:
    with RawPeer(("127.0.0.1", door.port), source=ELSEWHERE) as peer:
        peer.associate(calling="EVIL")
        assert peer.store("no UID", b"x") == 0xC000
    flood(door, b"\1\0\xff\xff\xff\xff", b"", 0)
    time.sleep(4)  # processes tell every 3 s
    ran = subprocess.run(
        [sys.executable, "-m", "appliance.cli.main", "status", "--json", "--config", str(door.file)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    refused = json.loads(ran.stdout)["refused"]
    assert refused["an A-ASSOCIATE-RQ of no possible length"] > 0
    assert refused["the SOP Instance UID is not a UID"] > 0

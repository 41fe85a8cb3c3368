"""The receive loop against a raw peer: what is kept, what is answered, and how every state of the upper layer ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from dicom_nodes import connection, deadlines
from dicom_nodes.arrivals import AssociationEnded, MessageKept
from dicom_nodes.message import Message
from tests import raw_peer
from tests.dicom_nodes.conftest import OpenDoor
from tests.raw_peer import (
    COMMAND,
    CT,
    EXPLICIT,
    IMPLICIT,
    LAST,
    MR,
    VERIFICATION,
    RawPeer,
    command,
    data,
    fragment,
    pdu,
)

Door = Callable[..., OpenDoor]
CONTENT = os.urandom(300_000)
STORE = fragment(1, COMMAND | LAST, command(raw_peer.C_STORE, 7, MR, "1.2.3"))


@pytest.fixture
def door(open_door: Door) -> OpenDoor:
    return open_door()


@pytest.fixture
def peer(door: OpenDoor) -> Iterator[RawPeer]:
    with RawPeer(door.address) as one:
        yield one


def ended(door: OpenDoor) -> AssociationEnded:
    found: AssociationEnded = door.wait(lambda: next((o for o in door.told if isinstance(o, AssociationEnded)), None))
    return found


def parts(door: OpenDoor) -> list[str]:
    """Return the files that are being received: named ones, and those that are open without a name."""
    found = os.listdir(door.spool.parts)
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            found += [target] if target.startswith(f"{door.spool.parts}/") else []
    return found


# --- fragments ---


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 16378, 65536, 131066])
def test_fragments_of_any_size_are_the_bytes_that_were_sent(door: OpenDoor, peer: RawPeer, size: int) -> None:
    peer.associate()
    content = CONTENT[: min(len(CONTENT), size * 3000)]
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    sent = [data(STORE)]
    sent += [data(fragment(1, LAST if n == len(pieces) - 1 else 0, piece)) for n, piece in enumerate(pieces)]
    peer.send(b"".join(sent))
    assert peer.status(7) == 0
    door.wait(door.kept)
    assert door.kept()[0].endswith(content)
    assert door.kept()[0][128:132] == b"DICM"


def test_several_fragments_in_a_pdu_and_a_pdu_that_comes_in_drops(door: OpenDoor, peer: RawPeer) -> None:
    peer.associate()
    whole = command(raw_peer.C_STORE, 7, MR, "1.2.3")
    halves = fragment(1, COMMAND, whole[:11]) + fragment(1, COMMAND | LAST, whole[11:])
    sent = data(halves, fragment(1, 0, b"ab" * 9), fragment(1, 0, b""), fragment(1, LAST, b"end"))
    for at in range(len(sent)):
        peer.send(sent[at : at + 1])
    assert peer.status(7) == 0
    door.wait(door.kept)
    assert door.kept()[0].endswith(b"ab" * 9 + b"end")


def test_messages_on_two_contexts_may_be_interleaved(door: OpenDoor, peer: RawPeer) -> None:
    peer.associate([(1, MR, [EXPLICIT]), (255, CT, [EXPLICIT])])
    other = fragment(255, COMMAND | LAST, command(raw_peer.C_STORE, 8, CT, "1.2.4"))
    peer.send(data(STORE, fragment(1, 0, b"one,"), other, fragment(255, 0, b"two,")))
    peer.send(data(fragment(1, 0, b"one,"), fragment(255, LAST, b"two."), fragment(1, LAST, b"one.")))
    assert peer.status(8) == 0
    assert peer.status(7) == 0
    door.wait(lambda: len(door.kept()) == 2)
    assert [one[-8:] for one in door.kept()] == [b"two,two.", b"one,one."]


@pytest.mark.parametrize("field", [raw_peer.C_ECHO, 0x0FFF])
def test_a_message_between_two_fragments_costs_no_byte(door: OpenDoor, peer: RawPeer, field: int) -> None:
    peer.associate([(1, MR, [EXPLICIT]), (3, VERIFICATION, [IMPLICIT])])
    between = fragment(3, COMMAND | LAST, command(field, 8, VERIFICATION, dataset=False))
    peer.send(data(STORE, fragment(1, 0, b"AAAA"), between, fragment(1, LAST, b"BBBB")))
    if field == raw_peer.C_ECHO:
        assert peer.status(8) == 0
    assert peer.status(7) == 0
    assert door.wait(door.kept)[0].endswith(b"AAAABBBB")


def test_fragments_without_content_have_an_end(door: OpenDoor, peer: RawPeer) -> None:
    peer.associate()
    peer.send(data(STORE, *[fragment(1, 0, b"") for _ in range(100)]))
    assert peer.pdu()[0] == raw_peer.ABORT


def test_who_drips_gives_its_place_to_another(open_door: Door) -> None:
    door = open_door("max_associations_per_source = 1")
    with RawPeer(door.address) as drip, RawPeer(door.address) as other:
        drip.associate()
        drip.send(data(STORE))
        for _ in range(8):
            drip.send(data(fragment(1, 0, b"x")))
            time.sleep(0.1)
        other.associate()
        drip.send(data(fragment(1, 0, b"x")))
        assert drip.pdu()[0] == raw_peer.ABORT
        assert other.store("1.2.3", b"content") == 0
        door.wait(lambda: door.places.count() == 1)


def test_many_instances_sent_at_once_and_message_ids_that_wrap(door: OpenDoor, peer: RawPeer) -> None:
    peer.associate()
    ids = [65534, 65535, 0, 1]
    sent = b""
    for number, identity in enumerate(ids):
        asked = fragment(1, COMMAND | LAST, command(raw_peer.C_STORE, identity, MR, f"1.2.{number}"))
        sent += data(asked, fragment(1, LAST, b"content %d!" % number))
    peer.send(sent)
    assert [peer.status(identity) for identity in ids] == [0, 0, 0, 0]
    assert len(door.wait(lambda: door.kept() if len(door.kept()) == 4 else None)) == 4


def test_a_response_leaves_in_fragments_where_the_peer_takes_little(door: OpenDoor, peer: RawPeer) -> None:
    peer.associate(maximum=30)
    peer.send(data(STORE, fragment(1, LAST, b"content")))
    whole, last = b"", 0
    while not last:
        kind, body = peer.pdu()
        assert kind == raw_peer.DATA
        assert len(body) <= 30
        whole, last = whole + body[6:], body[5] & LAST
    assert b"1.2.3" in whole


# --- services ---


def test_echo_and_store_share_an_association(peer: RawPeer) -> None:
    peer.associate([(1, MR, [EXPLICIT]), (3, VERIFICATION, [IMPLICIT])])
    peer.send(data(fragment(3, COMMAND | LAST, command(raw_peer.C_ECHO, 1, VERIFICATION, dataset=False))))
    assert peer.status(1) == 0
    assert peer.store("1.2.3", b"content") == 0
    peer.release()


def test_an_n_event_report_is_on_disk_before_it_is_answered(door: OpenDoor, peer: RawPeer) -> None:
    commitment = "1.2.840.10008.1.20.1"
    peer.associate([(1, commitment, [EXPLICIT, IMPLICIT])], calling="PACS")
    event_type = bytes.fromhex("0000 0210 02000000 0100".replace(" ", ""))
    asked = command(raw_peer.N_EVENT_REPORT, 5, commitment, "1.2.840.10008.1.20.1.1", more=event_type)
    peer.send(data(fragment(1, COMMAND | LAST, asked), fragment(1, LAST, b"a report")))
    found = peer.response()
    assert int.from_bytes(found[0x900], "little") == 0
    assert int.from_bytes(found[0x100], "little") == 0x8100
    (path,) = door.spool.messages()
    message = Message.decode((door.spool.folder / path).read_bytes())
    assert (message.command, message.event_type, message.dataset) == ("N-EVENT-REPORT", 1, b"a report")
    assert (message.calling_ae_title, message.transfer_syntax_uid) == ("PACS", EXPLICIT)
    assert door.spool.is_whole(path)
    door.wait(lambda: MessageKept(path) in door.told)


@pytest.mark.parametrize("field", [raw_peer.N_CREATE, raw_peer.N_SET])
def test_procedure_steps_are_kept(door: OpenDoor, peer: RawPeer, field: int) -> None:
    mpps = "1.2.840.10008.3.1.2.3.3"
    peer.associate([(1, mpps, [IMPLICIT])])
    asked = command(field, 5, mpps, "1.2.9", requested=field == raw_peer.N_SET)
    peer.send(data(fragment(1, COMMAND | LAST, asked), fragment(1, LAST, b"a step")))
    found = peer.response()
    assert int.from_bytes(found[0x900], "little") == 0
    assert found[0x1000].rstrip(b"\0") == b"1.2.9"
    assert len(list(door.spool.messages())) == 1


def test_an_operation_that_the_class_does_not_have_is_said_so(door: OpenDoor, peer: RawPeer) -> None:
    peer.associate()
    peer.send(data(fragment(1, COMMAND | LAST, command(0x0020, 5, MR)), fragment(1, LAST, b"find me")))
    assert peer.status(5) == 0x0211
    assert peer.store("1.2.3", b"content") == 0
    door.wait(lambda: not parts(door))


@pytest.mark.parametrize(
    ("uid", "sop_class", "content", "status"),
    [
        ("../../../etc/cron.d/x", MR, b"x", 0xC000),
        ("", MR, b"x", 0xC000),
        ("1.2\n3", MR, b"x", 0xC000),
        ("1" * 65, MR, b"x", 0xC000),
        ("1.2.3", CT, b"x", 0xA900),
        ("1.2.3", MR, b"", 0xC000),
    ],
)
def test_what_cannot_be_kept_is_refused_and_the_next_one_taken(
    door: OpenDoor, peer: RawPeer, uid: str, sop_class: str, content: bytes, status: int
) -> None:
    peer.associate()
    assert peer.store(uid, content, sop_class=sop_class) == status
    assert peer.store("1.2.4", b"content", message_id=2) == 0
    assert len(door.wait(door.kept)) == 1
    assert sum(door.acceptor.refused.values()) == 1
    door.wait(lambda: not parts(door))


def test_an_instance_over_the_limit_is_refused_and_one_without_end_ends_the_association(open_door: Door) -> None:
    door = open_door("max_instance_gb = 0.0001")  # 107374 bytes
    with RawPeer(door.address) as peer:
        peer.associate()
        assert peer.store("1.2.3", CONTENT[:120_000]) == 0xA700
        assert peer.store("1.2.3", CONTENT[:100_000]) == 0
        peer.send(data(STORE))
        with pytest.raises(OSError):  # noqa: PT011, PT012 - aborted, then closed or reset
            for _ in range(1000):
                peer.send(data(fragment(1, 0, CONTENT[:100_000])))
    ended(door)
    door.wait(lambda: not parts(door))


def test_more_than_an_association_may_bring_ends_it(open_door: Door) -> None:
    door = open_door("max_association_gb = 0.0002")  # 214748 bytes
    with RawPeer(door.address) as peer:
        peer.associate()
        assert peer.store("1.2.3", CONTENT[:120_000]) == 0
        peer.send(data(STORE, fragment(1, LAST, CONTENT[:120_000])))
        assert peer.pdu()[0] == raw_peer.ABORT
    assert len(door.kept()) == 1


# --- how it ends: PS3.8 Section 9.2 ---


def test_a_release_is_answered(door: OpenDoor, peer: RawPeer) -> None:
    peer.associate()
    peer.release()
    assert not ended(door).aborted


@pytest.mark.parametrize("how", ["abort", "close", "release"])
def test_an_end_inside_a_message_leaves_nothing_of_it(door: OpenDoor, peer: RawPeer, how: str) -> None:
    peer.associate()
    assert peer.store("1.2.9", b"content") == 0
    peer.send(data(STORE, fragment(1, 0, CONTENT[:50_000])))
    door.wait(lambda: parts(door))
    if how == "abort":
        peer.send(pdu(raw_peer.ABORT))
    elif how == "release":
        peer.send(pdu(raw_peer.RELEASE_RQ))
        assert peer.pdu()[0] == raw_peer.RELEASE_RP
    peer.socket.close()
    assert ended(door).aborted
    door.wait(lambda: not parts(door))
    assert len(door.kept()) == 1, "what was acknowledged stays"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (pdu(raw_peer.AC, bytes(70)), 2),
        (pdu(raw_peer.RJ), 2),
        (pdu(raw_peer.RELEASE_RP), 2),
        (raw_peer.request([(1, MR, [EXPLICIT])]), 2),
        (pdu(0x99), 1),
        (pdu(0), 1),
        (pdu(raw_peer.RELEASE_RQ, bytes(5)), 6),
        (pdu(raw_peer.DATA, b""), 6),
        (bytes((raw_peer.DATA, 0)) + (131073).to_bytes(4, "big"), 6),
        (bytes((raw_peer.DATA, 0)) + b"\xff\xff\xff\xff", 6),
        (data(fragment(3, COMMAND | LAST, command(1, 1))), 6),
        (data(fragment(2, COMMAND | LAST, command(1, 1))), 6),
        (data(fragment(1, LAST, b"data without command")), 5),
        (data(fragment(1, COMMAND | LAST, b"\0\0\0\1\xff\xff\xff\xff")), 6),
        (data(fragment(1, COMMAND | LAST, b"")), 6),
        (data(fragment(1, COMMAND | LAST, command(0x8001, 1))), 5),
        (data(STORE, fragment(1, 0, b"x"), STORE), 5),
        (pdu(raw_peer.DATA, b"\0\0\0\1\1"), 6),
        (pdu(raw_peer.DATA, b"\0\0\0\1\1\3"), 6),
        (pdu(raw_peer.DATA, b"\0\0\xff\0\1\3abc"), 6),
        (b"".join(data(fragment(1, COMMAND, bytes(30_000))) for _ in range(3)), 6),
    ],
)
def test_what_does_not_belong_here_is_answered_by_an_abort(
    door: OpenDoor, peer: RawPeer, sent: bytes, reason: int
) -> None:
    peer.associate()
    peer.send(sent)
    kind, body = peer.pdu()
    assert (kind, body[2], body[3]) == (raw_peer.ABORT, 2, reason)
    peer.socket.close()
    assert ended(door).aborted
    door.wait(lambda: door.places.count() == 0)


def test_a_receiver_that_stops_asks_for_release_between_messages(door: OpenDoor, peer: RawPeer) -> None:
    peer.associate()
    peer.send(data(STORE, fragment(1, 0, b"first half,")))
    door.wait(lambda: parts(door))
    door.acceptor.stop_event.set()
    time.sleep(2 * connection.TICK_S)
    peer.send(data(fragment(1, LAST, b"second half")))
    assert peer.status(7) == 0
    assert peer.pdu()[0] == raw_peer.RELEASE_RQ
    peer.send(data(STORE, fragment(1, LAST, b"too late: it cannot be answered any more")))
    peer.send(pdu(raw_peer.RELEASE_RP))
    assert peer.pdu() == (0, b"")
    assert not ended(door).aborted
    assert len(door.kept()) == 1


def test_release_requests_that_cross_are_both_answered(door: OpenDoor, peer: RawPeer) -> None:
    peer.associate()
    door.acceptor.stop_event.set()
    assert peer.pdu()[0] == raw_peer.RELEASE_RQ
    peer.send(pdu(raw_peer.RELEASE_RQ))
    time.sleep(0.1)
    peer.send(pdu(raw_peer.RELEASE_RP))
    assert peer.pdu()[0] == raw_peer.RELEASE_RP
    assert not ended(door).aborted


# --- deadlines ---


@pytest.mark.parametrize(
    ("limit", "begun"),
    [("PDU_S", data(STORE)[:9]), ("MESSAGE_PAUSE_S", data(STORE)), ("IDLE_S", b"")],
)
def test_silence_has_an_end(
    door: OpenDoor, peer: RawPeer, monkeypatch: pytest.MonkeyPatch, limit: str, begun: bytes
) -> None:
    monkeypatch.setattr(deadlines, limit, 0.3)
    peer.associate()
    peer.send(begun)
    assert peer.pdu()[0] == raw_peer.ABORT
    assert ended(door).aborted


def test_a_pdu_that_drips_has_an_end(door: OpenDoor, peer: RawPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "PDU_S", 0.5)
    peer.associate()
    began = time.monotonic()
    with pytest.raises(OSError):  # noqa: PT011, PT012
        for byte in data(STORE, fragment(1, LAST, CONTENT[:1000])):
            peer.send(bytes((byte,)))
            time.sleep(0.05)
    assert time.monotonic() - began < 3
    assert ended(door).aborted

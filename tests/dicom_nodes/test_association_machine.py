"""Associations of any course against the real acceptor: what is acknowledged is on disk, and nothing is left behind.

Hypothesis draws the courses: right and wrong requests, messages in any fragments and on two contexts at once,
nonsense, silence, and every way to leave. The same courses each time (`derandomize`), so that a red run stays red.
"""

from __future__ import annotations

import hashlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from dicom_nodes.arrivals import AssociationEnded, AssociationOpened
from dicom_nodes.services import Accepted, file_head
from tests import raw_peer
from tests.dicom_nodes.conftest import OpenDoor
from tests.dicom_nodes.test_dimse import parts
from tests.dicom_nodes.test_lobby import echo_s
from tests.raw_peer import (
    ABORT,
    C_ECHO,
    C_STORE,
    COMMAND,
    CT,
    EXPLICIT,
    LAST,
    MR,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    VERIFICATION,
    RawPeer,
    command,
    data,
    fragment,
    pdu,
    request,
)

CLASSES = {1: MR, 3: CT}
CONTEXTS = [(1, MR, [EXPLICIT]), (3, CT, [EXPLICIT]), (5, VERIFICATION, [EXPLICIT])]
CONTENT = st.binary(min_size=1, max_size=60) | st.integers(1, 300_000).map(lambda size: bytes(size - 1) + b"!")
GARBAGE = [
    pdu(0x99),
    pdu(raw_peer.AC, bytes(80)),
    pdu(RELEASE_RP),
    pdu(RELEASE_RQ, bytes(5)),
    struct.pack(">BxI", raw_peer.DATA, 131073),
    struct.pack(">BxI", raw_peer.DATA, 0xFFFFFFFF),
    data(b""),
    data(b"\0\0\0"),
    data(fragment(7, LAST, b"no such context")),
    data(fragment(5, 0, b"a data set without a command")),
    data(fragment(5, COMMAND | LAST, b"no command")),
    data(fragment(5, COMMAND | LAST, command(0x8030, 1, VERIFICATION, dataset=False))),
    data(struct.pack(">IBB", 1000, 5, COMMAND) + b"longer than its PDU"),
    request(CONTEXTS),
    b"GET / HTTP/1.1\r\nHost: curie\r\n\r\n",
]
WRONG = [
    (request(CONTEXTS, called="OTHER"), RJ),
    (request(CONTEXTS, calling="STRANGER"), RJ),
    (request(CONTEXTS)[:-1] + b"\xff\xff", 0),  # cannot be told from one that ends two bytes later: see `turned_away`
    (pdu(raw_peer.RQ, b"\0\1\0\0" + b"CURIE".ljust(16) + b"SCANNER".ljust(16) + bytes(44)), ABORT),
    (pdu(raw_peer.RQ, bytes(80)), RJ),  # no version that we have
    (pdu(RELEASE_RQ), ABORT),
]


WAYS = ["_abort", "_release", "_close", "_close_inside", "_reset", "_close_one_half"]


class AssociationMachine(RuleBasedStateMachine):
    """One peer, one association after another."""

    door: ClassVar[OpenDoor]
    numbers: ClassVar[itertools.count[int]]

    def __init__(self) -> None:
        super().__init__()
        self.threads = threading.active_count()
        self.peer: RawPeer | None = None
        self.begun: dict[int, tuple[str, bytearray]] = {}  # by context: UID and what was sent so far
        self.acknowledged: list[tuple[int, str, bytes]] = []

    def _is_associated(self) -> bool:
        return self.peer is not None

    def _peer(self) -> RawPeer:
        assert self.peer is not None
        return self.peer

    # --- to come ---

    @precondition(lambda self: not self._is_associated())
    @rule(slow=st.booleans())
    def associate(self, slow: bool) -> None:
        self.peer = RawPeer(self.door.address)
        if slow:
            whole = request(CONTEXTS)
            self.peer.send(whole[:50])
            time.sleep(0.02)
            self.peer.send(whole[50:])
            assert self.peer.pdu()[0] == raw_peer.AC
        else:
            assert len(self.peer.associate(CONTEXTS).presentation_context) == len(CONTEXTS)

    @rule(wrong=st.sampled_from(WRONG))
    def be_turned_away(self, wrong: tuple[bytes, int]) -> None:
        with RawPeer(self.door.address) as other:
            other.send(wrong[0])
            other.socket.shutdown(socket.SHUT_WR)
            kind, _ = other.pdu()
            assert kind == wrong[1] or (not wrong[1] and kind in (0, ABORT, raw_peer.AC)), (wrong, kind)

    # --- to bring something ---

    @precondition(lambda self: self._is_associated())
    @rule(pause=st.booleans())
    def echo(self, pause: bool) -> None:
        asked = data(fragment(5, COMMAND | LAST, command(C_ECHO, 77, VERIFICATION, dataset=False)))
        if pause:
            self._peer().send(asked[:9])
            time.sleep(0.02)
            asked = asked[9:]
        self._peer().send(asked)
        assert self._peer().status(77) == 0

    @precondition(lambda self: self._is_associated() and len(self.begun) < len(CLASSES))
    @rule(cut=st.integers(0, 90))
    def begin(self, cut: int) -> None:
        context = next(one for one in CLASSES if one not in self.begun)
        uid = f"1.2.{next(self.numbers)}"
        asked = command(C_STORE, context, CLASSES[context], uid)
        pieces = fragment(context, COMMAND, asked[:cut]) + fragment(context, COMMAND | LAST, asked[cut:])
        self._peer().send(data(pieces))
        self.begun[context] = uid, bytearray()

    @precondition(lambda self: self.begun)
    @rule(content=CONTENT, size=st.integers(1, 16000), in_one=st.booleans(), which=st.integers(0, 1))
    def go_on(self, content: bytes, size: int, in_one: bool, which: int) -> None:
        context = sorted(self.begun)[which % len(self.begun)]
        size = max(size, len(content) // 200)
        pieces = [fragment(context, 0, content[at : at + size]) for at in range(0, len(content), size)]
        if in_one and len(content) + 6 * len(pieces) < 100_000:
            self._peer().send(data(*pieces))
        else:
            self._peer().send(b"".join(data(one) for one in pieces))
        self.begun[context][1].extend(content)

    @precondition(lambda self: self._is_associated())
    @rule(turns=st.lists(st.tuples(st.sampled_from(sorted(CLASSES)), st.binary(max_size=20)), min_size=2, max_size=9))
    def go_on_with_both(self, turns: list[tuple[int, bytes]]) -> None:
        while len(self.begun) < len(CLASSES):
            self.begin(0)
        self._peer().send(data(*[fragment(context, 0, piece) for context, piece in turns]))
        for context, piece in turns:
            self.begun[context][1].extend(piece)

    @precondition(lambda self: self.begun)
    @rule(content=CONTENT.filter(lambda one: len(one) < 100), which=st.integers(0, 1))
    def finish(self, content: bytes, which: int) -> None:
        context = sorted(self.begun)[which % len(self.begun)]
        uid, sent = self.begun.pop(context)
        self._peer().send(data(fragment(context, LAST, content)))
        assert self._peer().status(context) == 0
        self.acknowledged.append((context, uid, bytes(sent) + content))

    @precondition(lambda self: self._is_associated() and len(self.begun) < len(CLASSES))
    @rule(content=CONTENT, size=st.integers(1, 16000), in_one=st.booleans())
    def store(self, content: bytes, size: int, in_one: bool) -> None:
        self.begin(7)
        self.go_on(content, size, in_one, 1)
        self.finish(content[:20], 1)

    # --- to leave: one rule, so that most steps bring something ---

    @precondition(lambda self: self._is_associated())
    @rule(way=st.sampled_from([*WAYS, *GARBAGE]))
    def leave(self, way: str | bytes) -> None:
        if isinstance(way, bytes):
            self._peer().send(way)
            assert self._peer().pdu()[0] in (ABORT, 0)
        else:
            getattr(self, way)()
        self._peer().socket.close()
        self.peer = None
        self.begun.clear()

    def _abort(self) -> None:
        began = time.monotonic()
        self._peer().send(pdu(ABORT))
        assert self._peer().pdu() == (0, b"")
        assert time.monotonic() - began < 0.5, "closed at once (PS3.8 AA-3)"

    def _release(self) -> None:
        self._peer().release()

    def _close(self) -> None:
        self._peer().socket.close()

    def _close_inside(self) -> None:
        self._peer().send(data(fragment(1, 0, bytes(50)))[:20])

    def _reset(self) -> None:
        self._peer().socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _close_one_half(self) -> None:
        self._peer().socket.shutdown(socket.SHUT_WR)
        assert self._peer().pdu() == (0, b"")

    # --- what always holds ---

    def teardown(self) -> None:
        """Look at what is left."""
        if self.peer is not None:
            self.leave("_close")
        for context, uid, content in self.acknowledged:
            digest = hashlib.sha256(uid.encode()).hexdigest()
            (file,) = self.door.spool.folder.glob(f"{digest[:2]}/{digest}.*.dcm")
            assert file.read_bytes() == file_head(Accepted(CLASSES[context], EXPLICIT), uid) + content
        self.door.wait(lambda: self.door.places.count() == 0, 3)
        self.door.wait(lambda: threading.active_count() <= self.threads, 3)
        assert parts(self.door) == []
        opened = {one.id for one in self.door.told if isinstance(one, AssociationOpened)}
        ended = {one.id for one in self.door.told if isinstance(one, AssociationEnded)}
        assert opened == ended
        assert echo_s(self.door) < 1


def test_no_course_of_an_association_loses_or_leaves_anything(open_door: Callable[..., OpenDoor]) -> None:
    class Machine(AssociationMachine):
        door = open_door("max_associations_per_source = 32")
        numbers = itertools.count(1)

    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=slow,
        ),
    )

"""The hot loop: one established association, from its first P-DATA-TF to its end, in constant memory.

Bytes go from one buffer to the spool by writev; only PDU, PDV and command headers are looked at, never a data set.
It answers C-STORE and the N-services after their bytes are durable, and C-ECHO. It must never trust a length, never
wait for ever, and never say 0x0000 of something that is not on disk.
"""

from __future__ import annotations

import mmap
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from dicom_nodes import pdu
from dicom_nodes.command import (
    C_CANCEL,
    C_ECHO,
    MAXIMUM_COMMAND,
    RESPONSE,
    BadCommand,
    Command,
    decode_command,
    encode_response,
)
from dicom_nodes.connection import quick_acknowledge
from dicom_nodes.deadlines import Clock
from dicom_nodes.places import Place
from dicom_nodes.services import Accepted, Keeping, Services
from dicom_nodes.upper_layer import Action, State, action, check_length

BUFFER = 4 * pdu.MAXIMUM_LENGTH  # several PDUs for each recv and writev
MOST_PIECES = 512  # fragments of one writev
MOST_MESSAGES = 8  # incomplete ones, each on a context of its own
PROGRESS = 1024  # bytes at once that keep an association from counting as silent
MOST_EMPTY = 64  # fragments without content in one message
SUCCESS = 0x0000


@dataclass(frozen=True)
class End:
    """How an association ended; `ours`: we cut it off; `awaited`: the peer waits for us to close (AA-3, AR-3)."""

    how: str
    released: bool = False
    ours: bool = False
    awaited: bool = False


class _Over(Exception):
    """The association has ended."""

    def __init__(self, how: str, released: bool = False, ours: bool = False, awaited: bool = False) -> None:
        super().__init__(how)
        self.end = End(how, released, ours, awaited)


class _Message:
    """A message of which not all fragments came yet."""

    def __init__(self) -> None:
        self.command_set = bytearray()
        self.command: Command | None = None
        self.keeping: Keeping | None = None
        self.empty = 0


class Association:
    """Reads what the peer sends and answers it, until the association is over."""

    def __init__(
        self, connection: socket.socket, accepted: dict[int, Accepted], services: Services, maximum_length: int = 0
    ) -> None:
        self.connection = connection
        self.accepted = accepted
        self.services = services
        self.peer_maximum = maximum_length
        self.state = State.DATA_TRANSFER
        self.bytes = 0
        self._buffer = mmap.mmap(-1, BUFFER)  # untouched pages cost nothing; given back at the end
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._messages: dict[int, _Message] = {}
        self._pieces: list[memoryview] = []  # of the message in `_target`, not yet written
        self._target: Keeping | None = None

    def run(self, place: Place, stop: threading.Event) -> End:
        """Serve until our last PDU.

        The connection stays open for `farewell`, since a reset could overtake what we sent last.
        """
        clock = Clock(place, stop)
        try:
            while True:
                self._receive(clock)
                self._read(clock)
        except _Over as over:
            return over.end
        except pdu.BadPDU as bad:
            self._send_abort(bad.reason)
            return End(str(bad), ours=True)
        except (OSError, EOFError):  # TLS says its own kinds of OSError
            return End("connection lost")
        finally:
            self._drop()

    # --- bytes ---

    def _receive(self, clock: Clock) -> None:
        """Wait for more bytes, keeping an eye on the deadlines."""
        if self._start == self._end:
            self._start = self._end = 0
        elif BUFFER - self._start < pdu.MAXIMUM_LENGTH + pdu.HEADER.size:
            length = self._end - self._start
            self._buffer.move(0, self._start, length)
            self._start, self._end = 0, length
        while True:
            try:
                count = self.connection.recv_into(self._view[self._end :])
            except (BlockingIOError, TimeoutError):
                self._tick(clock)
                continue
            if count == 0:
                raise _Over("the peer closed the connection")
            quick_acknowledge(self.connection)
            self._end += count
            if count >= PROGRESS:
                clock.place.heard()
            return

    def _tick(self, clock: Clock) -> None:
        """Look around, also while nothing comes: end when the place is gone, or told to stop, or too late."""
        if not clock.place.is_mine():
            self._abort("gave its place to another")
        inside = bool(self._messages)
        if clock.stop.is_set() and not inside and self.state is State.DATA_TRANSFER:
            self._send(pdu.RELEASE_REQUEST)
            self._enter(State.AWAIT_RELEASE_RP, clock)
        late = clock.late(self.state, inside, partial=self._end - self._start)
        if late:
            self._abort(late)

    def _read(self, clock: Clock) -> None:
        """Take every whole PDU in the buffer, then write what they brought."""
        clock.heard()
        view = self._view
        while self._end - self._start >= pdu.HEADER.size:
            kind, length = pdu.HEADER.unpack_from(view, self._start)
            check_length(kind, length)
            after = self._start + pdu.HEADER.size + length
            if after > self._end:
                break
            if kind == pdu.P_DATA and self.state is State.DATA_TRANSFER:
                self._data(self._start + pdu.HEADER.size, after, clock)
            else:
                self._other(kind, clock)
            self._start = after
            clock.whole()
        self._flush()
        self._tick(clock)

    # --- upper layer ---

    def _other(self, kind: int, clock: Clock) -> None:
        """Act on anything but P-DATA in data transfer (PS3.8 Section 9.2)."""
        what = action(self.state, kind)
        if what is Action.ANSWER_RELEASE:
            self._send(pdu.RELEASE_RESPONSE)
            raise _Over("released", released=not self._messages)
        if what is Action.COLLIDE:
            self._enter(State.COLLISION, clock)
        elif what is Action.RELEASED:
            raise _Over("released by us", released=True, awaited=True)
        elif what is Action.ABORTED:
            raise _Over("aborted by the peer", awaited=True)
        elif what is Action.ABORT:
            self._abort("an unexpected PDU", pdu.UNEXPECTED)

    def _enter(self, state: State, clock: Clock) -> None:
        self.state = state
        clock.entered()

    def _abort(self, sentence: str, reason: int = pdu.NOT_SPECIFIED) -> NoReturn:
        self._send_abort(reason)
        raise _Over(sentence, ours=True)

    def _send_abort(self, reason: int) -> None:
        with suppress(OSError, _Over):
            self._send(pdu.encode_abort(reason))

    def _send(self, content: bytes) -> None:
        try:
            self.connection.sendall(content)
        except (BlockingIOError, TimeoutError):
            raise _Over("the peer does not read our answers", ours=True) from None

    # --- messages ---

    def _data(self, at: int, end: int, clock: Clock) -> None:
        """Take the fragments of one P-DATA-TF (PS3.8 Section 9.3.5 and Annex E)."""
        while at < end:
            if end - at < pdu.PDV_HEADER.size:
                raise pdu.BadPDU("a fragment is cut")
            length, context, control = pdu.PDV_HEADER.unpack_from(self._view, at)
            begin, at = at + pdu.PDV_HEADER.size, at + 4 + length
            if length < 2 or at > end:
                raise pdu.BadPDU("a fragment is longer than its PDU")
            self._count(context, 4 + length, empty=length == 2)
            if context not in self.accepted:
                raise pdu.BadPDU("a fragment on a context that was not accepted")
            if control & pdu.COMMAND:
                self._command_fragment(context, begin, at, control, clock)
            else:
                self._dataset_fragment(context, begin, at, control, clock)

    def _command_fragment(self, context: int, begin: int, end: int, control: int, clock: Clock) -> None:
        message = self._messages.get(context)
        if message is None:
            if len(self._messages) >= MOST_MESSAGES:
                raise pdu.BadPDU("too many messages at once")
            message = self._messages[context] = _Message()
        if message.command is not None:
            raise pdu.BadPDU("a command inside a data set", pdu.UNEXPECTED_PARAMETER)
        message.command_set += self._view[begin:end]
        if sum(len(one.command_set) for one in self._messages.values()) > MAXIMUM_COMMAND:
            raise pdu.BadPDU("a command set is too long")
        if control & pdu.LAST:
            self._command(context, message, clock)

    def _command(self, context: int, message: _Message, clock: Clock) -> None:
        try:
            command = message.command = decode_command(message.command_set)
        except BadCommand as bad:
            raise pdu.BadPDU(str(bad)) from None
        message.command_set = bytearray()
        if command.field & RESPONSE:
            raise pdu.BadPDU("a response to nothing", pdu.UNEXPECTED_PARAMETER)
        if command.field not in (C_ECHO, C_CANCEL):
            message.keeping = self.services.begin(command, self.accepted[context])
        if not command.has_dataset:
            self._complete(context, message, clock)

    def _dataset_fragment(self, context: int, begin: int, end: int, control: int, clock: Clock) -> None:
        message = self._messages.get(context)
        if message is None or message.command is None:
            raise pdu.BadPDU("a data set without a command", pdu.UNEXPECTED_PARAMETER)
        if message.keeping is not self._target:
            self._flush()
            self._target = message.keeping
        self._pieces.append(self._view[begin:end])
        if len(self._pieces) >= MOST_PIECES:
            self._flush()
        if control & pdu.LAST:
            self._flush()
            self._complete(context, message, clock)

    def _count(self, context: int, length: int, empty: bool) -> None:
        """Bound what an association brings, and what a message brings without bringing anything."""
        self.bytes += length
        message = self._messages.get(context)
        if empty and message is not None:
            message.empty += 1
            if message.empty > MOST_EMPTY:
                raise pdu.BadPDU("too many fragments without content")
        if self.bytes > self.services.limits.association_bytes:
            raise pdu.BadPDU("more than receiver.max_association_gb in one association", pdu.NOT_SPECIFIED)

    def _flush(self) -> None:
        if self._pieces and self._target is not None and not self._target.write(self._pieces):
            raise pdu.BadPDU("a data set goes on far beyond the limit", pdu.NOT_SPECIFIED)
        self._pieces = []

    def _complete(self, context: int, message: _Message, clock: Clock) -> None:
        """Answer a whole message with one response in one send."""
        self._flush()  # what came on another context before it must not be forgotten
        del self._messages[context]
        self._target = None
        command = message.command
        assert command is not None
        if message.keeping is None:
            if command.field == C_ECHO:
                self._respond(context, encode_response(command, SUCCESS))
            clock.message(kept=False)
            return
        try:
            status, instance = message.keeping.finish(command.has_dataset)
            self._respond(context, encode_response(command, status, instance))
        finally:
            message.keeping.close()
        clock.message(kept=status == SUCCESS)

    def _respond(self, context: int, command_set: bytes) -> None:
        """Send a command set in fragments that the peer takes, together in one send."""
        room = (self.peer_maximum or pdu.MAXIMUM_LENGTH) - pdu.PDV_HEADER.size
        sent = bytearray()
        for at in range(0, len(command_set), room):
            piece = command_set[at : at + room]
            last = pdu.LAST if at + room >= len(command_set) else 0
            sent += pdu.HEADER.pack(pdu.P_DATA, len(piece) + pdu.PDV_HEADER.size)
            sent += pdu.PDV_HEADER.pack(len(piece) + 2, context, pdu.COMMAND | last) + piece
        self._send(bytes(sent))

    def _drop(self) -> None:
        """Forget what is not whole, give the memory back."""
        for message in self._messages.values():
            if message.keeping is not None:
                message.keeping.close()
        self._messages.clear()
        self._pieces = []
        with suppress(BufferError):  # a traceback may still hold a piece; then it goes with that
            self._view.release()
            self._buffer.close()

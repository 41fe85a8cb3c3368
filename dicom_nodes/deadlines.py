"""The deadlines of one association. It knows when what was heard, never what it was."""

from __future__ import annotations

import threading
import time

from dicom_nodes.places import Place
from dicom_nodes.upper_layer import State

PDU_S = 10.0  # from the first byte of a PDU to its last, and longer while it comes at the
SLOWEST = 4096  # bytes a second of a slow line
MESSAGE_PAUSE_S = 60.0  # without a byte inside a message
MESSAGE_S = 3600.0  # for one message
IDLE_S = 300.0  # between messages
RELEASE_S = 2.0  # for an answer to our A-RELEASE-RQ


class Clock:
    """The deadlines of one association."""

    def __init__(self, place: Place, stop: threading.Event) -> None:
        self.place = place
        self.stop = stop
        self._heard = self._pdu = self._message = self._entered = time.monotonic()
        self._partial = False

    def heard(self) -> None:
        """Bytes came."""
        self._heard = time.monotonic()
        if not self._partial:
            self._partial, self._pdu = True, self._heard

    def whole(self) -> None:
        """A PDU is whole; the next one begins with what is left, or with the next bytes."""
        self._partial, self._pdu = False, self._heard

    def message(self, kept: bool) -> None:
        """A message was answered."""
        self._message = time.monotonic()
        self.place.heard(kept)

    def entered(self) -> None:
        """The state changed."""
        self._entered = time.monotonic()

    def late(self, state: State, inside: bool, partial: int) -> str:
        """Return which deadline has passed, or nothing; `partial`: bytes of a PDU that is not whole."""
        now = time.monotonic()
        if state is not State.DATA_TRANSFER:
            return "no answer to our release request" if now - self._entered > RELEASE_S else ""
        if partial and now - self._pdu > PDU_S + partial / SLOWEST:
            return "a PDU took too long"
        if inside and now - self._heard > MESSAGE_PAUSE_S:
            return "silence inside a message"
        if inside and now - self._message > MESSAGE_S:
            return "a message took too long"
        if now - self._heard > IDLE_S:
            return "silence between messages"
        return ""

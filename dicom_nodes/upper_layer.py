"""The acceptor's states after A-ASSOCIATE-AC, as a table (PS3.8 Section 9.2.3). It must never touch a socket.

P-DATA in Sta6 is the loop's own business (`dicom_nodes.dimse`); everything else that comes is looked up here.
Our answer to A-RELEASE-RQ is immediate, so Sta8 does not show; as acceptor we never meet Sta9 and Sta11. Sta13 is
`connection.farewell`: whatever comes there is ignored until the peer closes or ARTIM ends it. Sta2 is the lobby's.
"""

from __future__ import annotations

from enum import StrEnum

from dicom_nodes import pdu


class State(StrEnum):
    """States of PS3.8 Tables 9-1 to 9-5 that last."""

    DATA_TRANSFER = "Sta6"
    AWAIT_RELEASE_RP = "Sta7"  # we asked for release
    COLLISION = "Sta10"  # so did the requestor; we are acceptor: its A-RELEASE-RP comes first


class Action(StrEnum):
    """What is done; the actions of PS3.8 Table 9-7 and 9-8 in the comment."""

    IGNORE = "ignore"  # AR-6: what comes after our release request cannot be answered, so it is not kept
    ANSWER_RELEASE = "answer release"  # AR-2 and AR-4, AR-10 and AR-4
    COLLIDE = "collide"  # AR-8
    RELEASED = "released"  # AR-3: close
    ABORTED = "aborted"  # AA-3: close
    ABORT = "abort"  # AA-8


_ASSOCIATE = (pdu.ASSOCIATE_RQ, pdu.ASSOCIATE_AC, pdu.ASSOCIATE_RJ)
_UNEXPECTED = {kind: Action.ABORT for kind in _ASSOCIATE}

TRANSITIONS: dict[State, dict[int, Action]] = {
    State.DATA_TRANSFER: {
        **_UNEXPECTED,
        pdu.RELEASE_RQ: Action.ANSWER_RELEASE,
        pdu.RELEASE_RP: Action.ABORT,
        pdu.ABORT: Action.ABORTED,
    },
    State.AWAIT_RELEASE_RP: {
        **_UNEXPECTED,
        pdu.P_DATA: Action.IGNORE,
        pdu.RELEASE_RQ: Action.COLLIDE,
        pdu.RELEASE_RP: Action.RELEASED,
        pdu.ABORT: Action.ABORTED,
    },
    State.COLLISION: {
        **_UNEXPECTED,
        pdu.P_DATA: Action.ABORT,
        pdu.RELEASE_RQ: Action.ABORT,
        pdu.RELEASE_RP: Action.ANSWER_RELEASE,
        pdu.ABORT: Action.ABORTED,
    },
}
LONGEST = {pdu.ASSOCIATE_RQ: pdu.MAXIMUM_REQUEST, pdu.ASSOCIATE_AC: pdu.MAXIMUM_REQUEST, pdu.P_DATA: pdu.MAXIMUM_LENGTH}
SHORT = 4  # bytes of the PDUs of fixed length, after the header


def action(state: State, kind: int) -> Action:
    """Return what a PDU of this type means in this state."""
    return TRANSITIONS[state].get(kind, Action.ABORT)


def check_length(kind: int, length: int) -> None:
    """Refuse a PDU by its header alone. Raises BadPDU."""
    if not pdu.ASSOCIATE_RQ <= kind <= pdu.ABORT:
        raise pdu.BadPDU("a PDU of no known type", pdu.UNRECOGNIZED)
    longest = LONGEST.get(kind)
    if longest is None and length != SHORT:
        raise pdu.BadPDU("a PDU of fixed length has another length")
    if longest is not None and not 0 < length <= longest:
        raise pdu.BadPDU("a PDU is longer than the maximum length we announced, or empty")

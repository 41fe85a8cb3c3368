"""The acceptor's state table, row by row as PS3.8 Table 9-10 has it."""

from __future__ import annotations

import pytest

from dicom_nodes import pdu
from dicom_nodes.upper_layer import TRANSITIONS, Action, State, action, check_length

# event → action in Sta6, Sta7, Sta10 (PS3.8 Table 9-10); P-DATA in Sta6 is the loop's
STANDARD = {
    pdu.ASSOCIATE_RQ: ("AA-8", "AA-8", "AA-8"),
    pdu.ASSOCIATE_AC: ("AA-8", "AA-8", "AA-8"),
    pdu.ASSOCIATE_RJ: ("AA-8", "AA-8", "AA-8"),
    pdu.P_DATA: (None, "AR-6", "AA-8"),
    pdu.RELEASE_RQ: ("AR-2", "AR-8", "AA-8"),
    pdu.RELEASE_RP: ("AA-8", "AR-3", "AR-10"),
    pdu.ABORT: ("AA-3", "AA-3", "AA-3"),
    0x99: ("AA-8", "AA-8", "AA-8"),
}
OURS = {
    "AA-8": Action.ABORT,
    "AR-6": Action.IGNORE,
    "AR-2": Action.ANSWER_RELEASE,
    "AR-8": Action.COLLIDE,
    "AR-3": Action.RELEASED,
    "AR-10": Action.ANSWER_RELEASE,
    "AA-3": Action.ABORTED,
}


@pytest.mark.parametrize("kind", STANDARD)
@pytest.mark.parametrize("state", list(State))
def test_each_cell_is_the_standards(kind: int, state: State) -> None:
    wanted = STANDARD[kind][list(State).index(state)]
    if wanted is not None:
        assert action(state, kind) is OURS[wanted]


def test_the_table_holds_every_state() -> None:
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize(
    ("kind", "length", "reason"),
    [
        (0, 4, pdu.UNRECOGNIZED),
        (8, 4, pdu.UNRECOGNIZED),
        (pdu.P_DATA, 0, pdu.INVALID_PARAMETER),
        (pdu.P_DATA, pdu.MAXIMUM_LENGTH + 1, pdu.INVALID_PARAMETER),
        (pdu.RELEASE_RQ, 3, pdu.INVALID_PARAMETER),
        (pdu.ABORT, 5, pdu.INVALID_PARAMETER),
        (pdu.ASSOCIATE_RQ, pdu.MAXIMUM_REQUEST + 1, pdu.INVALID_PARAMETER),
    ],
)
def test_a_header_alone_may_refuse(kind: int, length: int, reason: int) -> None:
    with pytest.raises(pdu.BadPDU) as refused:
        check_length(kind, length)
    assert refused.value.reason == reason


def test_what_may_come_may_come() -> None:
    for kind in (pdu.RELEASE_RQ, pdu.RELEASE_RP, pdu.ABORT, pdu.ASSOCIATE_RJ):
        check_length(kind, 4)
    check_length(pdu.P_DATA, pdu.MAXIMUM_LENGTH)

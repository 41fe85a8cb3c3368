"""A-ASSOCIATE as bytes: read as pynetdicom writes it, written as pynetdicom reads it, and never fooled by a length."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation, UserIdentityNegotiation

from dicom_nodes.pdu import BadPDU, ContextAnswer, decode_request, encode_accept, titles
from tests.raw_peer import EXPLICIT, IMPLICIT, MR, VERIFICATION, request, role

uids = st.lists(st.integers(0, 99999), min_size=3, max_size=8).map(lambda parts: "1.2." + ".".join(map(str, parts)))
contexts = st.dictionaries(
    st.integers(0, 127).map(lambda n: 2 * n + 1),
    st.tuples(uids, st.lists(uids, min_size=1, max_size=4)),
    min_size=1,
    max_size=20,
)


def identity(kind: int, wants_answer: bool = True) -> Any:
    item = UserIdentityNegotiation()
    item.user_identity_type, item.positive_response_requested = kind, wants_answer
    item.primary_field, item.secondary_field = b"user", b"secret" if kind == 2 else b""
    return item


@settings(max_examples=60, deadline=None)
@given(proposed=contexts, maximum=st.integers(8, 2**32 - 1))
def test_a_request_is_read_as_it_was_written(proposed: dict[int, tuple[str, list[str]]], maximum: int) -> None:
    sent = request([(one, *value) for one, value in proposed.items()], calling="A B", maximum=maximum)
    found = decode_request(sent[6:])
    assert {one.id: (one.abstract_syntax, list(one.transfer_syntaxes)) for one in found.contexts} == proposed
    assert (found.called, found.calling, found.maximum_length) == ("CURIE", "A B", maximum)


@settings(max_examples=300, deadline=None)
@given(change=st.data())
def test_a_damaged_request_is_read_or_refused_and_nothing_else(change: st.DataObject) -> None:
    sent = bytearray(request([(1, MR, [EXPLICIT, IMPLICIT]), (3, VERIFICATION, [IMPLICIT])], more=[identity(2)])[6:])
    for _ in range(change.draw(st.integers(1, 4))):
        at = change.draw(st.integers(0, len(sent) - 1))
        sent[at] = change.draw(st.integers(0, 255))
    content = bytes(sent[: change.draw(st.integers(0, len(sent)))])
    try:
        decode_request(content)
    except BadPDU:
        pass


def test_roles_window_and_identity_are_read() -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 5
    found = decode_request(request([(1, MR, [EXPLICIT])], more=[role(MR, True, False), window, identity(2)])[6:])
    assert found.roles == {MR: (True, False)}
    assert found.asynchronous
    assert (found.identity_type, found.identity_response) == (2, True)


def test_the_answer_is_what_pynetdicom_reads() -> None:
    sent = request([(1, MR, [EXPLICIT]), (3, VERIFICATION, [IMPLICIT])])[6:]
    found = decode_request(sent)
    answers = [ContextAnswer(1, 0, EXPLICIT), ContextAnswer(3, 4, IMPLICIT)]
    answer = A_ASSOCIATE_AC()
    answer.decode(encode_accept(found, sent[4:68], answers, {MR: (True, False)}, positive_identity=True))
    assert [(item.context_id, item.result, str(item.transfer_syntax)) for item in answer.presentation_context] == [
        (1, 0, EXPLICIT),
        (3, 4, IMPLICIT),
    ]
    assert (answer.called_ae_title, answer.calling_ae_title) == ("CURIE", "SCANNER")
    user = answer.user_information
    assert user.maximum_length == 131072
    assert [(str(item.uid), item.scu, item.scp) for item in user.role_selection.values()] == [(MR, 1, 0)]
    assert user.async_ops_window is None
    assert user.user_identity is not None


def test_a_window_of_many_operations_is_answered_by_one() -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 5
    sent = request([(1, MR, [EXPLICIT])], more=[window])[6:]
    answer = A_ASSOCIATE_AC()
    answer.decode(encode_accept(decode_request(sent), sent[4:68], [ContextAnswer(1, 0, EXPLICIT)], {}))
    found = answer.user_information.async_ops_window
    assert (found.maximum_number_operations_invoked, found.maximum_number_operations_performed) == (1, 1)


def test_a_transfer_syntax_of_no_length_is_nothing_that_matches() -> None:
    sent = request([(1, MR, [EXPLICIT])])[6:]
    item = struct.pack(">BxH", 0x40, len(EXPLICIT)) + EXPLICIT.encode()
    assert item in sent
    shorter = sent.replace(item, b"\x40\0\0\0")
    context = shorter.index(b"\x20\0", 68)
    size = struct.unpack_from(">H", shorter, context + 2)[0] - len(EXPLICIT)
    found = decode_request(shorter[: context + 2] + struct.pack(">H", size) + shorter[context + 4 :])
    assert found.contexts[0].transfer_syntaxes == ("",)


@pytest.mark.parametrize("content", [b"", bytes(67), bytes(68), b"\0\1" + bytes(66)])
def test_what_is_too_short_is_refused(content: bytes) -> None:
    with pytest.raises(BadPDU):
        decode_request(content)


@pytest.mark.parametrize("title", [b"A\nB".ljust(16), b"\xff".ljust(16), b"\x1b[31m".ljust(16)])
def test_titles_with_control_characters_are_refused(title: bytes) -> None:
    sent = request([(1, MR, [EXPLICIT])])[6:]
    with pytest.raises(BadPDU):
        titles(sent[:20] + title + sent[36:])

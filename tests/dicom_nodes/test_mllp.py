"""One message to a real listener: only an acknowledgement of this very message counts; nothing of it is repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.errors import Refused, Unreachable
from appliance.settings import MessageReceiver
from dicom_nodes import mllp
from tests.certificates import Authority
from tests.mllp_listener import Answer, Listener, acknowledged, acknowledgement, block

CONTENT = "MSH|^~\\&|PETITE-CURIE|h|||20260101||ORU^R01^ORU_R01|id-1|P|2.5.1\rPID|1||ÄÖ\r"


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    made.start()
    yield made
    made.stop()


def receiver(listener: Listener, **more: object) -> MessageReceiver:
    return MessageReceiver.model_validate({"name": "ris", "host": "127.0.0.1", "port": listener.port, **more})


@pytest.mark.parametrize("code", ["AA", "CA"])
def test_an_accepted_message_arrives_as_it_is(listener: Listener, code: str) -> None:
    listener.answer = acknowledged(code)
    assert mllp.send(receiver(listener), CONTENT, "id-1") == code
    assert listener.messages == [CONTENT.encode()]


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (acknowledged("AE"), Unreachable, "could not process"),
        (acknowledged("CE"), Unreachable, "could not process"),
        (acknowledged("AR"), Refused, "rejected the message"),
        (acknowledged("CR"), Refused, "rejected the message"),
        (acknowledged("ZZ"), Unreachable, "acknowledges no message of ours"),
        (lambda content: block(acknowledgement(content, "AA", "id-2")), Unreachable, "acknowledges no message of ours"),
        (lambda content: block(content), Unreachable, "acknowledges no message of ours"),
        (lambda content: block(b"\xff\x00 secret garbage"), Unreachable, "acknowledges no message of ours"),
        (lambda content: block(b""), Unreachable, "acknowledges no message of ours"),
        (lambda content: b"", Unreachable, "ended the connection"),
        (lambda content: acknowledgement(content, "AA"), Unreachable, "ended the connection"),
        (lambda content: b"x" * (mllp.LONGEST_ANSWER + 200_000), Unreachable, "without end"),
    ],
)
def test_nothing_else_is_taken_for_it(
    listener: Listener, answer: Callable[[bytes], Answer], error: type[Exception], said: str
) -> None:
    listener.answer = answer
    with pytest.raises(error, match=said) as raised:
        mllp.send(receiver(listener), CONTENT, "id-1")
    assert type(raised.value) is error
    assert "secret" not in str(raised.value)
    assert "ÄÖ" not in str(raised.value)


def test_a_listener_that_says_nothing_is_left(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mllp, "ANSWER_S", 0.3)
    listener.answer = lambda content: None
    started = time.monotonic()
    with pytest.raises(Unreachable, match="TimeoutError"):
        mllp.send(receiver(listener), CONTENT, "id-1")
    assert time.monotonic() - started < 3


def test_nobody_there(listener: Listener) -> None:
    listener.stop()
    with pytest.raises(Unreachable, match=r"does not answer at 127\.0\.0\.1"):
        mllp.send(receiver(listener), CONTENT, "id-1")
    with pytest.raises(Unreachable, match="does not answer"):
        mllp.probe(receiver(listener))
    listener.start()


def test_an_acknowledgement_with_other_separators_is_read(listener: Listener) -> None:
    listener.answer = lambda content: block(b"MSH!^~\\&!RIS\nMSA!AA!id-1\n")
    assert mllp.send(receiver(listener), CONTENT, "id-1") == "AA"


def test_over_tls_only_a_trusted_listener_gets_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.for_address("127.0.0.1")
    listener = Listener(tls=(str(certificate), str(key)))
    listener.start()
    try:
        with pytest.raises(Unreachable, match="certificate is not trusted"):
            mllp.send(receiver(listener, tls=True), CONTENT, "id-1")
        assert listener.messages == []
        trusted = receiver(listener, tls=True, ca=authority.file)
        assert mllp.send(trusted, CONTENT, "id-1") == "AA"
        assert mllp.probe(trusted) == "takes connections over TLS"
    finally:
        listener.stop()


def test_a_probe_sends_nothing(listener: Listener) -> None:
    assert mllp.probe(receiver(listener)) == "takes connections"
    assert listener.messages == []

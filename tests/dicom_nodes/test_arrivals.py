"""Arrivals travel between processes as lines, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from dicom_nodes.arrivals import (
    Arrival,
    AssociationEnded,
    AssociationOpened,
    AssociationsAlive,
    FileKept,
    MessageKept,
    decode_arrival,
    encode_arrival,
)


@pytest.mark.parametrize(
    "arrival",
    [
        AssociationOpened("a", 'A "B"\n', "10.0.0.1"),
        AssociationEnded("a", aborted=True),
        AssociationsAlive(("a", "b")),
        AssociationsAlive(()),
        FileKept("ab/c.dcm", "a"),
        FileKept("ab/c.dcm", adopted=True),
        MessageKept("message/c.msg"),
    ],
)
def test_an_arrival_is_one_line(arrival: Arrival) -> None:
    line = encode_arrival(arrival)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_arrival(line) == arrival


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{}",
        b'{"kind":"file"}',
        b'{"kind":"other","path":"a"}',
        b'{"kind":"file","path":1}',
        b'{"kind":"file","path":"a","more":"b"}',
        b'{"kind":"ended","id":"a","aborted":"no"}',
        b'{"kind":"alive","ids":[1]}',
        b'{"kind":[],"path":"a"}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_no_arrival_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not an arrival"):
        decode_arrival(line)

"""Multipart bodies as streams: any content, in any pieces, is the parts that were put together."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_nodes.multipart import Malformed, Multipart, WrongMediaType, boundary_of

BOUNDARY = b"b-1"
DICOM = b"application/dicom"
# what a parser may stumble over: beginnings of the boundary, its neighbours, and lines
WORDS = [b"\r", b"\n", b"-", b"\r\n--", b"\r\n--b", b"\r\n--b-", b"\r\n--b-1x", b"\r\n--b-1-x", b"b-1", b"\0", b"x"]
DELIMITER = re.compile(rb"\r\n--b-1(--|\r\n|[ \t])")  # no content may hold it (RFC 2046 Section 5.1.1)
CONTENT = (
    st.lists(st.sampled_from(WORDS), max_size=12).map(b"".join).filter(lambda one: not DELIMITER.search(one + b"\r\n"))
)


class Parts:
    """Collects what comes."""

    def __init__(self) -> None:
        self.found: list[bytearray] = []
        self.types: list[bytes] = []
        self.ended = 0

    def begin(self) -> None:
        self.found.append(bytearray())

    def headers(self, content_type: bytes) -> None:
        self.types.append(content_type)

    def write(self, piece: memoryview) -> None:
        self.found[-1] += piece

    def end(self) -> None:
        self.ended += 1


def wrap(contents: list[bytes]) -> bytes:
    begun = b"".join(b"\r\n--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n" + one for one in contents)
    return begun + b"\r\n--" + BOUNDARY + b"--"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(CONTENT, min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_parts_are_what_was_put_in_whatever_the_pieces(contents: list[bytes], sizes: list[int]) -> None:
    body, parts, at, turn = wrap(contents), Parts(), 0, 0
    multipart = Multipart(BOUNDARY, parts)
    while at < len(body):
        assert not multipart.is_whole()
        size = sizes[turn % len(sizes)]
        multipart.feed(body[at : at + size])
        at, turn = at + size, turn + 1
    assert multipart.is_whole()
    assert [bytes(one) for one in parts.found] == contents
    assert (parts.ended, parts.types) == (len(contents), [DICOM] * len(contents))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(CONTENT, min_size=1, max_size=3), st.data())
def test_a_body_cut_anywhere_is_not_whole(contents: list[bytes], data: st.DataObject) -> None:
    body = wrap(contents)
    multipart = Multipart(BOUNDARY, Parts())
    multipart.feed(body[: data.draw(st.integers(0, len(body) - 1))])
    assert not multipart.is_whole()


@pytest.mark.parametrize("sent", [b"x", b"--other\r\n", b"--b-1\r\nno header\r\n", b"--b-1\r\nA: " + b"x" * 9000])
def test_what_is_no_body_is_malformed(sent: bytes) -> None:
    with pytest.raises(Malformed):
        Multipart(BOUNDARY, Parts()).feed(sent)


def test_the_type_says_what_is_in_it() -> None:
    quoted = 'Multipart/Related; Boundary="a;b c"; type="Application/DICOM"'
    assert boundary_of(quoted, DICOM) == b"a;b c"
    with pytest.raises(WrongMediaType):
        boundary_of("multipart/related; boundary=a", DICOM)
    with pytest.raises(Malformed):
        boundary_of("multipart/related; type=application/dicom; boundary=", DICOM)

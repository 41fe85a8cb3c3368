"""Bodies of type multipart/related (RFC 2387, PS3.18 Section 8.6), as a stream: pieces in, parts out, nothing kept.

It must never hold more than one piece, nor believe that a body is whole before its closing boundary came.
"""

from __future__ import annotations

from typing import Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartState, parse_options_header

LONGEST_BOUNDARY = 70  # characters (RFC 2046 Section 5.1.1)


class Malformed(Exception):
    """What came is no such body."""


class WrongMediaType(Exception):
    """A body of another type."""


class Receiver(Protocol):
    """Who takes the parts."""

    def begin(self) -> None:
        """A part begins; its headers come first."""

    def headers(self, content_type: bytes) -> None:
        """Its headers are whole; the type is empty where none is given."""

    def write(self, piece: memoryview) -> None:
        """Some of its bytes, to be used or copied at once."""

    def end(self) -> None:
        """The part is whole."""


def boundary_of(content_type: str, parts_type: bytes) -> bytes:
    """Return the boundary of a multipart/related of this type of parts. Raises WrongMediaType, Malformed."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/related" or options.get(b"type", b"").strip().lower() != parts_type:
        raise WrongMediaType(f'Content-Type must be multipart/related; type="{parts_type.decode()}"')
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= LONGEST_BOUNDARY or b"\r" in boundary or b"\n" in boundary:
        raise Malformed("Content-Type has no boundary of 1 to 70 characters")
    return boundary


class Multipart:
    """One body."""

    def __init__(self, boundary: bytes, receiver: Receiver) -> None:
        self._receiver = receiver
        self._name, self._value, self._type = bytearray(), bytearray(), b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._header,
                "on_headers_finished": lambda: receiver.headers(self._type),
                "on_part_data": lambda data, start, end: receiver.write(memoryview(data)[start:end]),
                "on_part_end": receiver.end,
            },
        )

    def feed(self, piece: bytes) -> None:
        """Take some bytes. Raises Malformed, and what the receiver raises."""
        try:
            self._parser.write(piece)
        except FormParserError:
            raise Malformed("the body is no multipart/related of its boundary") from None

    def is_whole(self) -> bool:
        """Return whether the closing boundary came."""
        return bool(self._parser.state == MultipartState.END)

    def _begin(self) -> None:
        self._type = b""
        self._receiver.begin()

    def _header(self) -> None:
        if self._name.lower() == b"content-type":
            self._type = parse_options_header(self._value.decode("latin-1"))[0]
        self._name.clear()
        self._value.clear()

"""Where the frames of a Segmentation lie, from the bytes of its Per-Frame Functional Groups Sequence.

A dataset object for each of ten thousand frames costs seconds; walking their bytes costs milliseconds. It reads what
segment_frames.py writes (Explicit VR Little Endian, lengths defined) and refuses anything else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.errors import ResultRejected

ITEM = 0xFFFEE000
LONG = {b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OD", b"OF", b"OL"}
POSITION, SEGMENT, SOURCE = 0x00200032, 0x0062000B, 0x00081155
WITHIN = {0x00209113, 0x0062000A, 0x00089124, 0x00082112}  # sequences that lead to these three


@dataclass(frozen=True)
class FramePlace:
    """One frame."""

    position: tuple[float, float, float]  # LPS mm of the first pixel's centre
    segment: int  # Segment Number, 0 where a frame holds all
    source_uid: str  # SOP Instance UID of the image it was made from


def frame_places(value: bytes) -> list[FramePlace]:
    """Return the place of every frame, in their order. Raises ResultRejected for bytes that do not hold them."""
    try:
        return [_place(item) for item in items(value)]
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise ResultRejected("the frames of a segmentation cannot be read back") from error


def _place(item: bytes) -> FramePlace:
    found = dict(_leaves(item))
    x, y, z = (float(one) for one in found[POSITION].split(b"\\"))
    segment = struct.unpack("<H", found[SEGMENT])[0] if SEGMENT in found else 0
    return FramePlace((x, y, z), segment, found[SOURCE].rstrip(b"\0 ").decode("ascii"))


def _leaves(value: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the elements that matter, at any depth."""
    for tag, held in elements(value):
        if tag in WITHIN:
            for item in items(held):
                yield from _leaves(item)
        elif tag in (POSITION, SEGMENT, SOURCE):
            yield tag, held


def elements(value: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and value of each element (PS3.5 Section 7.1.2)."""
    at = 0
    while at < len(value):
        group, number, vr = struct.unpack_from("<HH2s", value, at)
        long = vr in LONG
        length = struct.unpack_from("<I" if long else "<H", value, at + (8 if long else 6))[0]
        at += 12 if long else 8
        if at + length > len(value):
            raise ValueError("an element is longer than what holds it")
        yield group << 16 | number, value[at : at + length]
        at += length


def items(value: bytes) -> Iterator[bytes]:
    """Yield the items of a sequence (PS3.5 Section 7.5)."""
    at = 0
    while at < len(value):
        group, number, length = struct.unpack_from("<HHI", value, at)
        if group << 16 | number != ITEM or at + 8 + length > len(value):
            raise ValueError("not an item of defined length")
        yield value[at + 8 : at + 8 + length]
        at += 8 + length

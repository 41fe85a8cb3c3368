"""Frames of a BINARY Segmentation in bulk: per-frame functional groups and packed bits, as bytes.

A whole head has about a thousand frames; a dataset object for each costs seconds, bytes cost milliseconds.
What is written here is compared with highdicom's own frames, item by item, by the tests. This module must never
decide which segments there are, only encode label map and positions as they come.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.valuerep import format_number_as_ds

from appliance.finding import Code
from appliance.study import FrameGeometry
from appliance.volume import SourceFrame
from dicom_nodes import codes
from dicom_nodes.source import SourceHeaders

LabelMap = npt.NDArray[np.uint8]
LONG_LENGTH = (b"OB", b"OW", b"SQ")
ALIGNED = 8  # frames that together end on a byte, whatever their size


@dataclass(frozen=True)
class SegmentFrame:
    """One frame: which segment in which slice."""

    segment: int  # Segment Number
    label: int  # value in the label map
    k: int


def frames_of(label_map: LabelMap, numbers: Mapping[int, int]) -> list[SegmentFrame]:
    """Return the frames that are not empty, by segment, then slice; `numbers` is label → Segment Number."""
    there = np.zeros((len(label_map), 256), bool)
    for k, plane in enumerate(label_map):
        there[k] = np.bincount(plane.ravel(), minlength=256) > 0
    return [
        SegmentFrame(segment, label, int(k))
        for label, segment in sorted(numbers.items(), key=lambda pair: pair[1])
        for k in np.flatnonzero(there[:, label])
    ]


def packed_bits(label_map: LabelMap, frames: Sequence[SegmentFrame]) -> bytes:
    """Return the frames' bits, first pixel in the lowest bit, without a break between frames (PS3.5 Section 8.2)."""
    return b"".join(_packed(label_map, frames)) or b""


def _packed(label_map: LabelMap, frames: Sequence[SegmentFrame]) -> Iterator[bytes]:
    for n in range(0, len(frames), ALIGNED):
        planes = [label_map[frame.k] == frame.label for frame in frames[n : n + ALIGNED]]
        yield np.packbits(np.concatenate(planes, axis=None), bitorder="little").tobytes()


def per_frame_groups(frames: Sequence[SegmentFrame], source: SourceHeaders) -> bytes:
    """Return the Per-Frame Functional Groups Sequence element, Explicit VR Little Endian (PS3.3 C.7.6.16)."""
    where = [_where(plane, frame) for plane, frame in zip(source.planes, source.frames, strict=True)]
    segments = {
        number: sequence(0x0062000A, element(0x0062000B, b"US", struct.pack("<H", number)))
        for number in {frame.segment for frame in frames}
    }
    items = []
    for frame in frames:
        derivation, position = where[frame.k]
        index = element(0x00209157, b"UL", struct.pack("<II", frame.segment, frame.k + 1))
        items.append(derivation + sequence(0x00209111, index) + position + segments[frame.segment])
    return sequence(0x52009230, *items)


def _where(plane: FrameGeometry, frame: SourceFrame) -> tuple[bytes, bytes]:
    """Return Derivation Image and Plane Position Sequence of all frames in one slice."""
    if plane.position is None:
        raise ValueError("a slice of a volume has a position")
    position = "\\".join(format_number_as_ds(value) for value in plane.position)
    image = [
        text(0x00081150, b"UI", frame.sop_class_uid),
        text(0x00081155, b"UI", frame.sop_instance_uid),
        text(0x00081160, b"IS", str(frame.frame)) if frame.frame is not None else b"",
        text(0x0028135A, b"CS", "YES"),
        sequence(0x0040A170, _code(codes.SOURCE_IMAGE)),
    ]
    derivation = sequence(0x00082112, b"".join(image)) + sequence(0x00089215, _code(codes.SEGMENTATION))
    return sequence(0x00089124, derivation), sequence(0x00209113, text(0x00200032, b"DS", position))


def _code(code: Code) -> bytes:
    return b"".join(
        (
            text(0x00080100, b"SH", code.value),
            text(0x00080102, b"SH", code.scheme),
            text(0x00080104, b"LO", code.meaning),
        )
    )


def text(tag: int, vr: bytes, value: str) -> bytes:
    """Return a text element, padded to even length (PS3.5 Section 6.2)."""
    encoded = value.encode("utf-8")
    return element(tag, vr, encoded + (b"\0" if vr == b"UI" else b" ") * (len(encoded) % 2))


def sequence(tag: int, *items: bytes) -> bytes:
    """Return a sequence of items, all lengths defined (PS3.5 Section 7.5)."""
    head = b"\xfe\xff\x00\xe0"
    return element(tag, b"SQ", b"".join(head + struct.pack("<I", len(item)) + item for item in items))


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Return one element in Explicit VR Little Endian (PS3.5 Section 7.1.2); the value has even length."""
    number = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if vr in LONG_LENGTH:
        return number + vr + b"\0\0" + struct.pack("<I", len(value)) + value
    return number + vr + struct.pack("<H", len(value)) + value

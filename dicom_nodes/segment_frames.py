"""Frames of a BINARY Segmentation in bulk: per-frame functional groups and packed bits, as bytes.

A whole head has about a thousand frames; a dataset object for each costs seconds, bytes cost milliseconds.
What is written here is compared with highdicom's own frames, item by item, by the tests. This module must never
decide which segments there are, only encode label map and positions as they come.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from pydicom.valuerep import format_number_as_ds

from appliance.study import FrameGeometry
from appliance.volume import SourceFrame
from dicom_nodes import codes
from dicom_nodes.elements import coded, element, in_pieces, sequence, text
from dicom_nodes.label_maps import LabelMap, Segments
from dicom_nodes.source import SourceHeaders

ITEM_HEAD = 8  # bytes before an item's value
ALIGNED = 8  # frames that together end on a byte, whatever their size


Frame = TypeVar("Frame")


@dataclass(frozen=True, slots=True)
class SegmentFrame:
    """One frame: which segment in which slice."""

    segment: int  # Segment Number
    label: int  # value in the label map
    k: int


def frames_of(segments: Segments) -> list[SegmentFrame]:
    """Return the frames that are not empty, by segment, then slice."""
    return [
        SegmentFrame(number, finding.segment_number, int(k))
        for number, (finding, voxels) in enumerate(zip(segments.findings, segments.voxels, strict=True), 1)
        for k in np.flatnonzero(voxels)
    ]


def evened(frames: Sequence[SegmentFrame], segments: Segments, pixels: int) -> list[SegmentFrame]:
    """Return the frames, with empty ones among them until the bits of all fill an even number of bytes.

    `pixels`: of one frame. OHIF 3.13 opens no Segmentation whose pixel data end with a padding byte (PS3.5 Section
    8.2). At most eight frames are added; where every segment is in every slice, none can be.
    """
    spare = (
        SegmentFrame(number, finding.segment_number, int(k))
        for number, (finding, voxels) in enumerate(zip(segments.findings, segments.voxels, strict=True), 1)
        for k in np.flatnonzero(voxels == 0)
    )
    missing = next((n for n in range(9) if -(-(len(frames) + n) * pixels // 8) % 2 == 0), 0)
    return sorted([*frames, *islice(spare, missing)], key=lambda frame: (frame.segment, frame.k))


def packed_bits(label_map: LabelMap, frames: Sequence[SegmentFrame]) -> Iterator[bytes]:
    """Yield the frames' bits, first pixel in the lowest bit, without a break between frames (PS3.5 Section 8.2)."""
    for n in range(0, len(frames), ALIGNED):
        planes = [label_map[frame.k] == frame.label for frame in frames[n : n + ALIGNED]]
        yield np.packbits(np.concatenate(planes, axis=None), bitorder="little").tobytes()


def per_frame_groups(frames: Sequence[SegmentFrame], source: SourceHeaders) -> Iterator[bytes]:
    """Yield the Per-Frame Functional Groups Sequence element, Explicit VR Little Endian (PS3.3 C.7.6.16)."""
    where = [_where(plane, frame) for plane, frame in zip(source.planes, source.frames, strict=True)]
    segments = {
        number: sequence(0x0062000A, element(0x0062000B, b"US", struct.pack("<H", number)))
        for number in {frame.segment for frame in frames}
    }

    def item(frame: SegmentFrame) -> bytes:
        derivation, position = where[frame.k]
        index = element(0x00209157, b"UL", struct.pack("<II", frame.segment, frame.k + 1))
        return derivation + sequence(0x00209111, index) + position + segments[frame.segment]

    return _in_turn(item, frames)


def slice_groups(slices: Sequence[int], source: SourceHeaders) -> Iterator[bytes]:
    """Yield the same for frames that hold all segments of a slice each, as a label map has them."""
    where = {k: _where(source.planes[k], source.frames[k]) for k in slices}

    def item(k: int) -> bytes:
        derivation, position = where[k]
        index = element(0x00209157, b"UL", struct.pack("<I", k + 1))
        return derivation + sequence(0x00209111, index) + position

    return _in_turn(item, slices)


def _in_turn(item: Callable[[Frame], bytes], frames: Sequence[Frame]) -> Iterator[bytes]:
    """Yield the sequence of all items, each made twice rather than all kept: once for its length."""
    length = sum(len(item(frame)) + ITEM_HEAD for frame in frames)
    pieces = (struct.pack("<HHI", 0xFFFE, 0xE000, len(made)) + made for made in map(item, frames))
    return in_pieces(0x52009230, b"SQ", length, pieces)


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
        sequence(0x0040A170, coded(codes.SOURCE_IMAGE)),
    ]
    derivation = sequence(0x00082112, b"".join(image)) + sequence(0x00089215, coded(codes.SEGMENTATION))
    return sequence(0x00089124, derivation), sequence(0x00209113, text(0x00200032, b"DS", position))

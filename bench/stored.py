"""Compares every dataset that a receiver keeps with the one that was sent, byte for byte. It must never sample."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bench.datasets import Instance
from bench.pdus import Broken

PREAMBLE = 128
CHUNK = 1 << 20
SOP_INSTANCE_UID = re.compile(rb"\x08\x00\x18\x00UI..([0-9.]+)")  # (0008,0018), Explicit VR Little Endian


@dataclass(frozen=True)
class Comparison:
    """How many datasets were kept as sent, how many otherwise, how many not at all, and files that nobody sent."""

    same: int
    different: int
    missing: int
    foreign: int

    @property
    def is_perfect(self) -> bool:
        """Whether everything is there as it was sent, and nothing else."""
        return not (self.different or self.missing or self.foreign)

    def __str__(self) -> str:
        words = f"{self.different} different, {self.missing} missing, {self.foreign} not sent by us"
        return f"{self.same} as sent, {words}"


def compare(files: Iterable[Path], sent: Sequence[Instance]) -> Comparison:
    """Compare DICOM files (PS3.10) with the instances that were sent; other files are passed over."""
    left = {one.sop_instance_uid: one for one in sent}
    same = different = foreign = 0
    for file in files:
        with file.open("rb") as stream:
            if stream.read(PREAMBLE + 4)[PREAMBLE:] != b"DICM":
                continue
            instance = left.pop(_uid_at_dataset(stream), None)
            if instance is None:
                foreign += 1
            elif _is_dataset(stream, instance):
                same += 1
            else:
                different += 1
    return Comparison(same, different, len(left), foreign)


def _uid_at_dataset(stream: BinaryIO) -> str:
    """Move to the first byte after the file meta information and return the dataset's SOP Instance UID."""
    group_length = stream.read(12)
    if group_length[:8] != b"\x02\x00\x00\x00UL\x04\x00":
        raise Broken("a stored file does not begin with the group length of its file meta information")
    start = PREAMBLE + 4 + 12 + int(struct.unpack("<I", group_length[8:])[0])
    stream.seek(start)
    found = SOP_INSTANCE_UID.search(stream.read(4096))
    stream.seek(start)
    return found[1].decode() if found else ""


def _is_dataset(stream: BinaryIO, instance: Instance) -> bool:
    """Return whether the rest of a file is the instance's dataset."""
    if stream.read(len(instance.head)) != instance.head:
        return False
    for at in range(0, len(instance.pixels), CHUNK):
        expected = instance.pixels[at : at + CHUNK].tobytes()
        if stream.read(len(expected)) != expected:
            return False
    return stream.read(1) == b""

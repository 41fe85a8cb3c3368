"""One image file: its header, where its pixels lie, and the stored values of one frame.

Header and pixels are read apart, so that a series costs its pixels once in memory. This module must never
sort, rescale or interpret: it gives stored values as the file has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from pydicom import Dataset

from appliance.errors import InstanceRefused, StudyBlocked, StudyUnsuitable
from appliance.volume import Array
from dicom_nodes.decode import decode_in_child
from dicom_nodes.header import read_open
from dicom_nodes.pixels import BIG_ENDIAN, NATIVE, PixelLayout, check_pixels, normalised, transfer_syntax

IMPLICIT = "1.2.840.10008.1.2"
FLOAT_BITS = {0x7FE00008: 32, 0x7FE00009: 64}  # Float and Double Float Pixel Data
COMPRESSED = -1  # in place of an offset


@dataclass(frozen=True)
class ImageFile:
    """One file: its header, where its pixels lie and how they are written."""

    path: Path
    header: Dataset
    layout: PixelLayout
    offset: int  # of native pixels in the file
    big_endian: bool


@dataclass
class FrameReader:
    """Gives frames of a series; compressed files are decoded at the first frame asked for, all in one child."""

    images: Sequence[ImageFile]
    _decoded: dict[int, Array] = field(default_factory=dict)

    def frame(self, image: int, frame: int) -> Array:
        """Return the stored values (rows, columns) of one frame, counted from 0."""
        if self.images[image].offset != COMPRESSED:
            return native_frame(self.images[image], frame)
        if not self._decoded:
            self._decode()
        found: Array = self._decoded[image][frame]
        return found

    def _decode(self) -> None:
        numbers = [n for n, image in enumerate(self.images) if image.offset == COMPRESSED]
        arrays = decode_in_child([self.images[n].path for n in numbers])
        self._decoded.update(zip(numbers, arrays, strict=True))


def open_image(path: Path) -> ImageFile:
    """Return one image file, its pixels found and checked against its header but not read.

    Raises StudyBlocked when it contradicts itself or is cut, StudyUnsuitable when it is no grey image.
    """
    try:
        with path.open("rb") as file:
            return _located(path, read_open(file), file)
    except (InstanceRefused, OSError) as error:
        what = str(error) if isinstance(error, InstanceRefused) else "the file cannot be read"
        raise StudyBlocked(f"an image cannot be used: {what}") from error


def _located(path: Path, ds: Dataset, file: BinaryIO) -> ImageFile:
    syntax = transfer_syntax(ds)
    tag, length = _pixel_head(file, syntax)
    if syntax not in NATIVE:
        return ImageFile(path, ds, _grey(check_pixels(ds)), COMPRESSED, False)
    offset = file.tell()
    there = min(length, path.stat().st_size - offset)
    layout = check_pixels(ds, there, float_bits=FLOAT_BITS.get(tag, 0))
    return ImageFile(path, ds, _grey(layout), offset, syntax == BIG_ENDIAN)


def _pixel_head(file: BinaryIO, syntax: str) -> tuple[int, int]:
    """Return tag and length of the element at which the file stands, and move to its value."""
    order: Literal["big", "little"] = "big" if syntax == BIG_ENDIAN else "little"
    start = file.read(8)
    if len(start) < 8:
        raise StudyUnsuitable("an image holds no pixels")
    tag = int.from_bytes(start[:2], order) << 16 | int.from_bytes(start[2:4], order)
    size = start[4:] if syntax == IMPLICIT else file.read(4)
    return tag, int.from_bytes(size, order)


def _grey(layout: PixelLayout) -> PixelLayout:
    if layout.samples != 1 or layout.photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise StudyUnsuitable("the images are in colour, grey values are needed")
    if layout.bits_allocated == 1:
        raise StudyUnsuitable("the images are bit maps, grey values are needed")
    return layout


def native_frame(image: ImageFile, frame: int) -> Array:
    """Return the stored values (rows, columns) of one native frame, counted from 0."""
    layout = image.layout
    values = np.empty(layout.rows * layout.columns, layout.dtype(big_endian=image.big_endian))
    with image.path.open("rb", buffering=0) as file:
        file.seek(image.offset + frame * layout.frame_bytes)
        if file.readinto(values.view(np.uint8).data) != layout.frame_bytes:
            raise StudyBlocked("pixel data cannot be decoded: the file is cut")
    if image.big_endian and layout.bits_allocated == 8:
        raise StudyUnsuitable("8-bit pixels in big endian are not supported")
    native = values if not image.big_endian else values.astype(layout.dtype())
    return normalised(native.reshape(layout.rows, layout.columns), layout)

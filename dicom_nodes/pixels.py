"""What a header announces of its pixels, and whether that can be true.

Decided before a single pixel is touched: sizes, depths and photometric interpretation must agree with each
other and, for native pixels, with the bytes that are there. This module must never decode anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pydicom import Dataset

from appliance.errors import StudyBlocked
from appliance.volume import Array
from dicom_nodes.values import text, whole

MOST_BYTES = 4 << 30  # of one instance's decoded pixels
BITS = {1, 8, 16, 32, 64}
PHOTOMETRIC = {
    1: {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"},
    3: {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"},
}
NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
BIG_ENDIAN = "1.2.840.10008.1.2.2"


@dataclass(frozen=True)
class PixelLayout:
    """What a header announces of its pixels."""

    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    floating: bool  # Float or Double Float Pixel Data

    @property
    def frame_bytes(self) -> int:
        """Size of one decoded frame."""
        return (self.rows * self.columns * self.samples * self.bits_allocated + 7) // 8

    @property
    def total_bytes(self) -> int:
        """Size of all decoded frames, without padding."""
        return (self.rows * self.columns * self.samples * self.frames * self.bits_allocated + 7) // 8

    def dtype(self, *, big_endian: bool = False) -> np.dtype[np.generic]:
        """Return the type of one stored value."""
        kind = "f" if self.floating else "i" if self.signed else "u"
        return np.dtype(f"{'>' if big_endian else '<'}{kind}{max(1, self.bits_allocated // 8)}")


def check_pixels(ds: Dataset, native_bytes: int | None = None, *, float_bits: int = 0) -> PixelLayout:
    """Return what the header announces; raise StudyBlocked when it cannot be true (PS3.3 C.7.6.3).

    `native_bytes` is the length of the native pixel data found; it must be what the header announces.
    `float_bits` is 32 or 64 where the pixels are Float or Double Float Pixel Data.
    """
    layout = float_layout(_layout(ds), float_bits) if float_bits else _layout(ds)
    allowed = PHOTOMETRIC.get(layout.samples, set())
    if layout.bits_allocated not in BITS:
        raise StudyBlocked(f"pixel data cannot be decoded: {layout.bits_allocated} bits allocated")
    if layout.photometric not in allowed:
        raise StudyBlocked("pixel data cannot be decoded: samples and photometric interpretation disagree")
    if not 1 <= layout.bits_stored <= layout.bits_allocated or layout.high_bit >= layout.bits_allocated:
        raise StudyBlocked("pixel data cannot be decoded: bits stored and bits allocated disagree")
    if min(layout.rows, layout.columns, layout.frames) < 1:
        raise StudyBlocked("pixel data cannot be decoded: no rows, columns or frames")
    if layout.total_bytes > MOST_BYTES:
        raise StudyBlocked(f"pixel data cannot be decoded: {layout.total_bytes >> 30} GiB are announced")
    if native_bytes is not None and native_bytes - layout.total_bytes not in (0, layout.total_bytes % 2):
        announced = f"{native_bytes} bytes are there, {layout.total_bytes} are announced"
        raise StudyBlocked(f"pixel data cannot be decoded: {announced}")
    return layout


def _layout(ds: Dataset) -> PixelLayout:
    bits = whole(ds, 0x00280100, 0)
    stored = whole(ds, 0x00280101, bits)
    return PixelLayout(
        rows=whole(ds, 0x00280010, 0),
        columns=whole(ds, 0x00280011, 0),
        frames=whole(ds, 0x00280008, 1),
        samples=whole(ds, 0x00280002, 1),
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=whole(ds, 0x00280102, stored - 1),
        signed=whole(ds, 0x00280103, 0) == 1,
        photometric=text(ds, 0x00280004),
        floating=False,
    )


def float_layout(layout: PixelLayout, bits: int) -> PixelLayout:
    """Return the layout of Float (32) or Double Float (64) Pixel Data (PS3.3 C.7.6.24)."""
    return replace(layout, bits_allocated=bits, bits_stored=bits, high_bit=bits - 1, signed=True, floating=True)


def transfer_syntax(ds: Dataset) -> str:
    """Return the Transfer Syntax UID of a file; Implicit VR Little Endian where it has no file meta."""
    return str(getattr(ds, "file_meta", Dataset()).get("TransferSyntaxUID", "1.2.840.10008.1.2"))


def normalised(values: Array, layout: PixelLayout) -> Array:
    """Return stored values with bits outside High Bit … Bits Stored cleared, or made sign (PS3.5 Section 8.1.1)."""
    above = layout.bits_allocated - 1 - layout.high_bit
    unused = layout.bits_allocated - layout.bits_stored
    if layout.floating or layout.bits_allocated == 1 or not unused:
        return values
    found: Array = np.right_shift(np.left_shift(values, above), unused)  # the second fills with the sign
    return found

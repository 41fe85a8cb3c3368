"""Digests of what an instance says, not of how it is encoded.

The same object in implicit or explicit VR, little or big endian, with defined or undefined sequence lengths
and other padding has one header digest; native pixels have one pixel digest. Changed words have another. It
must never convert values through pydicom (slow, and it warns with patient data), only walk received bytes.

Values are told text from binary by the dictionary, not by the VR received, because implicit VR carries none.
Private values are compared without trailing spaces and NULs for the same reason.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.encaps import generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from appliance.errors import InstanceRefused
from dicom_nodes.header import PIXELS, READ_ERRORS, read_open
from dicom_nodes.values import by_tag, whole

PADDED = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
WORD = {  # bytes of one number, for big endian (PS3.5 Section 7.3)
    "US": 2, "SS": 2, "OW": 2, "AT": 2, "US or SS": 2,
    "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4,
    "FD": 8, "OD": 8, "SV": 8, "UV": 8, "OV": 8,
}  # fmt: skip
LONG_LENGTH = {b"OB", b"OD", b"OF", b"OL", b"OW", b"OV", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
ITEM_START = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
PIXEL_DATA = b"\xe0\x7f\x10\x00"  # its tag in little endian
TRAILING_PADDING = 0xFFFCFFFC
UNDEFINED = 0xFFFFFFFF
DEEPEST = 32  # nested sequences

Element = tuple[int, str | None, bytes]  # tag, VR received, value


class NotASequence(ValueError):
    """Bytes that look like items are none."""


@dataclass(frozen=True)
class Encoding:
    """How bytes of a sequence are written."""

    explicit: bool
    little: bool


@dataclass(frozen=True)
class ContentDigest:
    """What one instance says: two digests in hexadecimal."""

    header: str
    pixels: str


def content_digest(path: Path) -> ContentDigest:
    """Return both digests of a file. Raises InstanceRefused when it cannot be read."""
    with path.open("rb") as file:
        ds = read_open(file, pixels=True)
    return ContentDigest(header_digest(ds), pixel_digest(ds))


def _new(value: bytes = b"") -> hashlib.blake2b:
    """Return a BLAKE2b of 256 bits: where the processor has no SHA instructions, half the time of SHA-256."""
    return hashlib.blake2b(value, digest_size=32)


def header_digest(ds: Dataset) -> str:
    """Return the digest of all element values but pixel data, group lengths and trailing padding."""
    parts: list[bytes] = []
    try:
        _add_dataset(ds, parts, 0)
    except READ_ERRORS as error:
        raise InstanceRefused("the header contradicts itself", InstanceRefused.UNREADABLE) from error
    return _new(b"".join(parts)).hexdigest()


def pixel_digest(ds: Dataset) -> str:
    """Return the digest of the pixels: native as little endian without padding, else each frame's bytes.

    `ds` must hold its Pixel Data; an object without any has the digest of nothing.
    """
    total = _new()
    for tag in (0x7FE00008, 0x7FE00009, 0x7FE00010):
        if tag in ds:
            for part in _pixel_parts(ds, ds.get_item(tag)):
                total.update(part)
    return total.hexdigest()


def streamed_pixel_digest(ds: Dataset, file: BinaryIO, size: int) -> str | None:
    """Return the same digest of native little-endian pixels, read piece by piece from where the header ended.

    None where that cannot be: compressed or big-endian pixels, several pixel elements, anything after them.
    """
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if syntax is None or syntax.is_encapsulated or not syntax.is_little_endian or syntax.is_deflated:
        return None
    head = file.read(8 if syntax.is_implicit_VR else 12)
    length = int.from_bytes(head[-4:], "little")
    if head[:4] != PIXEL_DATA or length == UNDEFINED or file.tell() + length != size:
        return None
    total, left = _new(), min(length, native_length(ds))
    while left and (piece := file.read(min(left, 1 << 20))):
        total.update(piece)
        left -= len(piece)
    return total.hexdigest()


def _pixel_parts(ds: Dataset, element: Any) -> Iterable[bytes | memoryview]:
    value: bytes = element.value or b""
    meta = getattr(ds, "file_meta", Dataset())
    syntax = meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated:
        return generate_frames(value, number_of_frames=max(1, whole(ds, 0x00280008, 1)))
    little = not isinstance(element, RawDataElement) or element.is_little_endian
    value = value if little else swapped(value, _pixel_word(ds, element))
    return (memoryview(value)[: native_length(ds)],)


def _pixel_word(ds: Dataset, element: Any) -> int:
    """Return the bytes of one number in big endian pixel data: OW is words, whatever Bits Allocated says."""
    return 1 if element.VR == "OB" else max(2, whole(ds, 0x00280100, 16) // 8)


def native_length(ds: Dataset) -> int:
    """Return how many bytes native pixel data has without its pad byte (PS3.5 Section 8.1.1)."""
    rows, columns = whole(ds, 0x00280010, 0), whole(ds, 0x00280011, 0)
    values = rows * columns * max(1, whole(ds, 0x00280008, 1)) * whole(ds, 0x00280002, 1)
    return (values * whole(ds, 0x00280100, 0) + 7) // 8


def swapped(value: bytes, word: int) -> bytes:
    """Return the bytes with each word of so many bytes turned round."""
    if word == 1 or len(value) % word:
        return value
    turned = bytearray(len(value))
    for n in range(word):
        turned[n::word] = value[word - 1 - n :: word]
    return bytes(turned)


def _add_dataset(ds: Dataset, parts: list[bytes], depth: int) -> None:
    for element in sorted(ds.values(), key=by_tag):
        tag = int(element.tag)
        if not _counts(tag):
            continue
        if isinstance(element, RawDataElement):
            how = Encoding(not element.is_implicit_VR, element.is_little_endian)
            _add_value((tag, element.VR, element.value or b""), how, parts, depth)
        elif element.VR == "SQ":
            _add_items(tag, list(element.value), parts, depth)
        else:
            _add_value((tag, element.VR, _encoded(element)), Encoding(True, True), parts, depth)


def _counts(tag: int) -> bool:
    """Tell whether an element is part of what the instance says."""
    return bool(tag & 0xFFFF) and tag >> 16 != PIXELS >> 16 and tag != TRAILING_PADDING


def _encoded(element: Any) -> bytes:
    """Return the value bytes of an element that was already turned into a Python value."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_data_element(buffer, element, ["utf8"])
    return buffer.getvalue()[8:]


def _add_items(tag: int, found: list[Dataset], parts: list[bytes], depth: int) -> None:
    parts.append(struct.pack("<IcI", tag, b"S" if found else b"V", len(found)))
    for item in found:
        _add_dataset(item, parts, depth + 1)
        parts.append(b"E")


def _add_value(element: Element, how: Encoding, parts: list[bytes], depth: int) -> None:
    tag, vr, value = element
    known = DicomDictionary.get(tag)
    named = known[0] if known else vr
    if value and (named == "SQ" or vr == "SQ" or (not known and value[:4] in ITEM_START)):
        inner = Encoding(False, True) if vr == "UN" else how
        if _add_sequence(element, inner, parts, depth):
            return
    if not how.little and (word := WORD.get(vr or "")):
        value = swapped(value, word)
    if not known or named in PADDED:
        value = value.rstrip(b" \0")
    parts.append(struct.pack("<IcI", tag, b"V", len(value)))
    parts.append(value)


def _add_sequence(element: Element, how: Encoding, parts: list[bytes], depth: int) -> bool:
    """Add a sequence held as bytes; add nothing and return False when it is none after all."""
    tag, _, value = element
    mark = len(parts)
    parts.append(b"")
    try:
        count = 0
        for item in _items(value, how, depth + 1):
            for inner in sorted(item, key=lambda one: one[0]):
                if _counts(inner[0]):
                    _add_value(inner, how, parts, depth + 1)
            parts.append(b"E")
            count += 1
    except (NotASequence, struct.error):
        del parts[mark:]
        return False
    parts[mark] = struct.pack("<IcI", tag, b"S" if count else b"V", count)
    return True


def _items(value: bytes, how: Encoding, depth: int) -> Iterator[list[Element]]:
    """Yield the elements of each item of a sequence's bytes (PS3.5 Section 7.5)."""
    if depth > DEEPEST:
        raise NotASequence
    at, end = 0, len(value)
    while at < end:
        tag, length = _item_head(value, at, how)
        at += 8
        if tag == SEQUENCE_END:
            return
        if tag != ITEM or (length != UNDEFINED and at + length > end):
            raise NotASequence
        found, at = _elements(value, at, end if length == UNDEFINED else at + length, how)
        yield found


def _item_head(value: bytes, at: int, how: Encoding) -> tuple[int, int]:
    group, number, length = struct.unpack_from("<HHI" if how.little else ">HHI", value, at)
    return group << 16 | number, length


def _elements(value: bytes, at: int, end: int, how: Encoding) -> tuple[list[Element], int]:
    """Return the elements from `at` to the end of their item, and where the next item begins."""
    found: list[Element] = []
    while at < end:
        tag, vr, length, at = _element_head(value, at, how)
        if tag == ITEM_END:
            return found, at
        if length == UNDEFINED:
            stop, following = _end_of_undefined(value, at, Encoding(False, True) if vr == "UN" else how)
        else:
            stop = following = at + length
        if stop > end:
            raise NotASequence
        found.append((tag, vr, value[at:stop]))
        at = following
    return found, at


def _element_head(value: bytes, at: int, how: Encoding) -> tuple[int, str | None, int, int]:
    """Return tag, VR, length and where the value begins (PS3.5 Section 7.1)."""
    tag, length = _item_head(value, at, how)
    if not how.explicit or tag == ITEM_END:
        return tag, None, length, at + 8
    vr = value[at + 4 : at + 6]
    if vr in LONG_LENGTH:
        (length,) = struct.unpack_from("<I" if how.little else ">I", value, at + 8)
        return tag, vr.decode(), length, at + 12
    if not vr.isalpha():
        raise NotASequence
    (length,) = struct.unpack_from("<H" if how.little else ">H", value, at + 6)
    return tag, vr.decode("ascii", "replace"), length, at + 8


def _end_of_undefined(value: bytes, at: int, how: Encoding) -> tuple[int, int]:
    """Return where a sequence of undefined length ends and where its delimiter ends."""
    while True:
        tag, length = _item_head(value, at, how)
        at += 8
        if tag == SEQUENCE_END:
            return at - 8, at
        if tag != ITEM:
            raise NotASequence
        at = _elements(value, at, len(value), how)[1] if length == UNDEFINED else at + length

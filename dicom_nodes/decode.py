"""Pixel data → arrays, without trust: checked against the header first, compressed ones decoded in a child.

Decoders are C code fed with foreign bytes. They run in one short-lived process for a whole series, with
limits on memory, CPU and wall time, started without a shell and without the parent's environment; what comes
back is a file of exactly the announced size. This module must never decode compressed pixels in its own
process, and no error text quotes a decoder (they quote values).

Run as `python -m dicom_nodes.decode` it is that child: a JSON order on standard input, pixels into a file.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.pixels.decoders.base import get_decoder

from appliance.errors import InstanceRefused, StudyBlocked
from appliance.volume import Array
from dicom_nodes.header import read_header
from dicom_nodes.pixels import PixelLayout, check_pixels, normalised, transfer_syntax

PLUGINS = {  # Transfer Syntax UID → pydicom decoding plugin, the fastest that was measured for each
    "1.2.840.10008.1.2.5": "pylibjpeg",  # RLE Lossless
    "1.2.840.10008.1.2.4.50": "pylibjpeg",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51": "pylibjpeg",  # JPEG Extended
    "1.2.840.10008.1.2.4.57": "pylibjpeg",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70": "pylibjpeg",  # JPEG Lossless SV1
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # HTJ2K Lossless
    "1.2.840.10008.1.2.4.202": "pylibjpeg",  # HTJ2K RPCL
    "1.2.840.10008.1.2.4.203": "pylibjpeg",  # HTJ2K
}


@dataclass(frozen=True)
class Limits:
    """What a decoding child may use."""

    memory_bytes: int = 3 << 30  # on top of nothing: address space of the whole child
    cpu_s: int = 600
    wall_s: float = 900.0


def decode_in_child(paths: Sequence[Path], limits: Limits | None = None, folder: Path | None = None) -> list[Array]:
    """Return the stored values of each file, (frames, rows, columns), decoded by one limited child process.

    Raises StudyBlocked when any of them cannot be decoded. `folder` takes the temporary file; all files
    must hold one sample a pixel.
    """
    layouts = [_checked(path) for path in paths]
    total = sum(layout.total_bytes for layout in layouts)
    with tempfile.TemporaryDirectory(prefix="decode-", dir=folder) as scratch:
        target = Path(scratch) / "pixels"
        _run_child({"paths": [str(path.absolute()) for path in paths], "target": str(target)}, limits, total)
        if not target.is_file() or target.stat().st_size != total:
            raise StudyBlocked("compressed pixel data cannot be decoded: not all pixels came back")
        pixels = np.memmap(target, dtype=np.uint8, mode="r")
        return _split(pixels, layouts)  # the mapping outlives the file's name


def _split(pixels: npt.NDArray[np.uint8], layouts: Sequence[PixelLayout]) -> list[Array]:
    found: list[Array] = []
    at = 0
    for layout in layouts:
        part = pixels[at : at + layout.total_bytes].view(layout.dtype())
        found.append(part.reshape(layout.frames, layout.rows, layout.columns))
        at += layout.total_bytes
    return found


def _checked(path: Path) -> PixelLayout:
    """Return the layout of a compressed greyscale file; raise before any decoder runs."""
    try:
        ds = read_header(path)
    except InstanceRefused as error:
        raise StudyBlocked(f"an image cannot be decoded: {error}") from error
    layout = check_pixels(ds)
    if transfer_syntax(ds) not in PLUGINS:
        raise StudyBlocked("compressed pixel data cannot be decoded: no decoder for its transfer syntax")
    if layout.samples != 1 or layout.bits_allocated not in (8, 16):
        raise StudyBlocked("compressed pixel data cannot be decoded: only grey images of 8 or 16 bits")
    return layout


def decoded_pixel_digest(path: Path, limits: Limits | None = None) -> str:
    """Return the SHA-256 of the stored values, whatever the transfer syntax: bits beyond Bits Stored cleared.

    For comparing one object in two encodings only. Raises StudyBlocked when it cannot be decoded.
    """
    layout = check_pixels(read_header(path))
    with tempfile.TemporaryDirectory(prefix="decode-") as scratch:
        target = Path(scratch) / "digest"
        order = {"paths": [str(path.absolute())], "target": str(target), "digest": True}
        _run_child(order, limits, layout.total_bytes)
        found = target.read_text() if target.is_file() else ""
    if len(found) != 64:
        raise StudyBlocked("pixel data cannot be decoded: no digest came back")
    return found


def _run_child(order: dict[str, object], limits: Limits | None, total: int) -> None:
    """Start the child with its order and wait; raise StudyBlocked unless it says it is done."""
    limits = limits or Limits()
    house = str(Path(__file__).resolve().parent.parent)
    message = json.dumps({**order, "limits": asdict(limits), "file_bytes": total + (1 << 20)})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dicom_nodes.decode"],
            input=message.encode(),
            cwd=tempfile.gettempdir(),
            env={"PYTHONPATH": house, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limits.wall_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StudyBlocked("pixel data cannot be decoded: decoding takes too long") from error
    if done.returncode:
        raise StudyBlocked("compressed pixel data cannot be decoded: the decoder failed")


def main() -> None:
    """Be the child: set the limits, decode every file of the order, write the pixels or their digest."""
    order = json.load(sys.stdin)
    _limit(order["limits"], order["file_bytes"])
    target = Path(order["target"])
    if order.get("digest"):
        total = hashlib.sha256()
        for frame in _frames(order["paths"][0]):
            total.update(frame.tobytes())
        target.write_text(total.hexdigest())
        return
    with target.open("wb", buffering=0) as file:
        for path in order["paths"]:
            for frame in _frames(path):
                file.write(frame.tobytes())


def _frames(path: str) -> Iterator[Array]:
    """Yield each frame's stored values as little endian, bits beyond Bits Stored cleared or sign."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcmread(path)
        syntax = transfer_syntax(ds)
        layout = check_pixels(ds)
        decoder = get_decoder(ds.file_meta.TransferSyntaxUID)
        for frame, _ in decoder.iter_array(ds, raw=True, decoding_plugin=PLUGINS.get(syntax, "")):
            if frame.nbytes != layout.frame_bytes:
                raise ValueError("a frame is not of the announced size")
            yield normalised(frame.astype(layout.dtype(), copy=False), layout)


def _limit(limits: dict[str, float], file_bytes: int) -> None:
    for what, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (int(value), int(value)))


if __name__ == "__main__":
    main()

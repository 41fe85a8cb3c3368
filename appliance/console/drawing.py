"""The child that draws one picture: an order on stdin, a PNG on stdout, or one sentence and exit code 1.

`python -m appliance.console.drawing`. It reads foreign bytes, so it has limits and no catalogue.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import CurieError

if TYPE_CHECKING:
    from appliance.cli.picture import Legend
    from appliance.volume import Volume

BURNED_IN, COLUMNS, ROWS, FRAMES = 0x00280301, 0x00280011, 0x00280010, 0x00280008


def draw(images: Sequence[Path], segmentation: Path, title: str) -> bytes:
    """Return a PNG of three planes with the segments as a tint. Raises CurieError."""
    from appliance.cli.picture import save_picture
    from dicom_nodes.segmentation_reader import read_segmentation

    files = _of_series(images, segmentation)
    _refuse(files)
    volume = _volume(files)
    label_map = read_segmentation(segmentation, volume)
    target = io.BytesIO()
    save_picture(target, volume, label_map, _legend(segmentation), title)
    return target.getvalue()


def _of_series(images: Sequence[Path], segmentation: Path) -> list[Path]:
    """Return the images that the segmentation lies on (PS3.3 C.12.1, Referenced Series Sequence)."""
    from dicom_nodes.header import read_header
    from dicom_nodes.values import items, text

    held = {text(item, 0x0020000E) for item in items(read_header(segmentation), 0x00081115)}
    found = [file for file in images if text(read_header(file), 0x0020000E) in held]
    if not found:
        raise CurieError("the images of this result are no longer here: spool.keep_days is over")
    return found


def _refuse(files: Sequence[Path]) -> None:
    """Raise CurieError where the images say that they show text, or are too many to draw."""
    from appliance.console.pictures import MOST_VOXELS
    from dicom_nodes.header import read_header
    from dicom_nodes.values import text, whole

    voxels = 0
    for file in files:
        header = read_header(file)
        if text(header, BURNED_IN).upper() == "YES":
            raise CurieError("these images say that text is burned into them (0028,0301); look at them in the PACS")
        voxels += whole(header, ROWS, 0) * whole(header, COLUMNS, 0) * max(1, whole(header, FRAMES, 1))
    if voxels > MOST_VOXELS:
        raise CurieError(f"{voxels / 1e6:.0f} million voxels are too many to draw here; look at them in the PACS")


def _volume(files: Sequence[Path]) -> Volume:
    """Return the volume of a series; of a series over time its first moment, which has the same grid."""
    from appliance.errors import StudyUnsuitable
    from dicom_nodes.volume_reader import read_sequence, read_volume

    try:
        return read_volume(files)
    except StudyUnsuitable:
        return read_sequence(files)[0][0]


def _legend(segmentation: Path) -> list[Legend]:
    """Return number, label and colour of each segment, as viewers are told them."""
    from appliance.cli.picture import Legend
    from dicom_nodes.segmentation_reader import shown_segments

    return [Legend(number, label, rgb) for number, label, rgb in shown_segments(segmentation)]


def main() -> None:
    """Be the child."""
    order = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (order["memory_bytes"], order["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CPU, (order["cpu_s"], order["cpu_s"]))
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no part of the picture
    try:
        picture = draw([Path(one) for one in order["images"]], Path(order["segmentation"]), order["title"])
    except CurieError as error:
        os.write(out, str(error).encode())
        sys.exit(1)
    with os.fdopen(out, "wb") as file:
        file.write(picture)


if __name__ == "__main__":
    main()

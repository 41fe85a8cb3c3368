"""Pictures of key slices: the image in grey, findings as tints and outlines, a legend with the numbers.

For the eyes alone. No value may depend on clock or chance, and nothing may be drawn that says who the patient is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from appliance.finding import Finding
from appliance.job import ResultContext
from appliance.volume import Volume
from dicom_nodes import origin
from dicom_nodes.contours import outlines
from dicom_nodes.label_maps import LabelMap, Segments

MOST_PICTURES = 12
SIDE = 512  # pixels of the longer side of the image
LEGEND = 300  # pixels beside it
OPACITY = 0.30
INK, PAPER, WARNING = (235, 235, 235), (16, 18, 22), (255, 180, 60)
LUNG_HU, LUNG_WINDOW, SOFT_WINDOW = -400.0, (-1350.0, 150.0), (-160.0, 240.0)
Picture = npt.NDArray[np.uint8]
WRITTEN = {"[hnsf'U]": "HU", "1": ""}  # units as people write them, where UCUM does not


def key_slices(segments: Segments) -> list[int]:
    """Return the slices in which a finding is largest, from the first, at most MOST_PICTURES."""
    largest = sorted(segments.findings, key=lambda one: -one.voxels)[:MOST_PICTURES]
    return sorted({segments.key_slice(one) for one in largest})


def drawn(k: int, label_map: LabelMap, volume: Volume, segments: Segments, context: ResultContext) -> Picture:
    """Return the picture (rows, columns, 3) of slice `k`, with square pixels."""
    image, scale = grey(k, label_map, volume)
    there = [one for one in segments.findings if (label_map[k] == one.segment_number).any()]
    for one in there:
        tint(image, label_map[k] == one.segment_number, one.rgb)
    sheet = Image.new("RGB", (image.width + LEGEND, max(image.height, 200) + 56), PAPER)
    sheet.paste(image, (0, 28))
    draw = ImageDraw.Draw(sheet)
    for one in there:
        for ring in outlines(label_map[k] == one.segment_number):
            draw.line([(x * scale[1], 28 + y * scale[0]) for x, y in ring], one.rgb, 2)
    draw.text((8, 5), context.title, INK, font(15))
    warning = (
        f"{origin.NOT_CLINICAL.capitalize()}. Made by software."
        if context.not_for_clinical_use
        else "Made by software."
    )
    draw.text((8, sheet.height - 24), f"{warning}  Slice {k + 1} of {len(volume.voxels)}", WARNING, font(14))
    write_legend(draw, there, image.width + 12)
    return np.asarray(sheet, np.uint8)


def grey(k: int, label_map: LabelMap, volume: Volume) -> tuple[Image.Image, tuple[float, float]]:
    """Return slice `k` in grey with square pixels, and how many of its pixels a row and a column became."""
    low, high = window(label_map, volume)
    plane = np.clip((volume.voxels[k].astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255
    _, row_mm, column_mm = volume.spacing_mm
    rows, columns = plane.shape
    per_mm = SIDE / max(rows * row_mm, columns * column_mm)
    size = (max(1, round(columns * column_mm * per_mm)), max(1, round(rows * row_mm * per_mm)))
    image = Image.fromarray(plane.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    return image, (size[1] / rows, size[0] / columns)


def window(label_map: LabelMap, volume: Volume) -> tuple[float, float]:
    """Return the values shown black and white: of lung or soft tissue in CT, of most voxels elsewhere."""
    if volume.modality != "CT":
        some = volume.voxels[::4, ::4, ::4]
        return float(np.percentile(some, 1)), float(np.percentile(some, 99.7))
    found = volume.voxels[label_map > 0]
    return LUNG_WINDOW if found.size and float(np.median(found)) < LUNG_HU else SOFT_WINDOW


def tint(image: Image.Image, mask: npt.NDArray[np.bool_], rgb: tuple[int, int, int]) -> None:
    """Colour the pixels of `image` that a mask (rows, columns) covers."""
    share = Image.fromarray((mask * round(255 * OPACITY)).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    image.paste(Image.new("RGB", image.size, rgb), (0, 0), share)


def write_legend(draw: Any, findings: Sequence[Finding], x: int) -> None:
    """Write name and numbers of each finding in its colour."""
    y = 34
    for one in findings:
        draw.rectangle((x, y + 2, x + 12, y + 14), fill=one.rgb)
        draw.text((x + 20, y), one.name, INK, font(13))
        y += 17
        for line in numbers(one):
            draw.text((x + 20, y), line, INK, font(12))
            y += 15
        y += 5


def numbers(one: Finding) -> list[str]:
    """Return the numbers of a finding as lines of text."""
    told = [f"{m.name.meaning} {m.value:.4g} {WRITTEN.get(m.unit.value, m.unit.value)}" for m in one.measurements]
    return told if one.probability is None else [*told, f"Probability {100 * one.probability:.0f} %"]


def font(size: int) -> Any:
    """Return the font that comes with Pillow."""
    return ImageFont.load_default(size)

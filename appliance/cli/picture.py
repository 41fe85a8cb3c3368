"""A picture of a segmentation over three planes, for people. Arrays in, PNG out; it never shows who the patient is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from appliance.volume import Array, Volume

PANEL = 360  # pixels along each side
OPACITY = 0.45
INK, PAPER = (235, 235, 235), (16, 18, 22)
# for each plane: its name, and which patient axis (L, P, S) runs right and which up
PLANES = (("axial", 2, 0, 1, -1), ("coronal", 1, 0, 2, 1), ("sagittal", 0, 1, 2, 1))


@dataclass(frozen=True)
class Legend:
    """One line of the legend."""

    number: int
    text: str
    rgb: tuple[int, int, int]


def save_picture(
    place: Path | BinaryIO, volume: Volume, label_map: Array, legend: Sequence[Legend], title: str
) -> None:
    """Write three planes through the middle of what was found, each with the segments as a tint, and a legend."""
    centre = _centre(label_map)
    window = _window(volume.voxels)
    panels = [_panel(volume, label_map, legend, plane, centre, window) for plane in PLANES]
    lines = (len(legend) + 2) // 3
    sheet = Image.new("RGB", (3 * PANEL + 40, PANEL + 90 + 24 * lines), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((10, 8), title, INK, font=_font(17))
    for n, panel in enumerate(panels):
        sheet.paste(panel, (10 + n * (PANEL + 10), 36))
        draw.text((14 + n * (PANEL + 10), 40), PLANES[n][0], INK, font=_font(13))
    for n, entry in enumerate(legend):
        x, y = 10 + (n % 3) * (PANEL + 10), PANEL + 52 + 24 * (n // 3)
        draw.rectangle((x, y + 2, x + 14, y + 16), fill=entry.rgb)
        draw.text((x + 22, y), entry.text, INK, font=_font(14))
    sheet.save(place, format="PNG")


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _centre(label_map: Array) -> tuple[int, int, int]:
    found = np.nonzero(label_map)
    if not len(found[0]):
        k, j, i = (n // 2 for n in label_map.shape)
        return k, j, i
    k, j, i = (int(np.median(axis)) for axis in found)
    return k, j, i


def _window(voxels: Array) -> tuple[float, float]:
    some = voxels[::4, ::4, ::4]
    return float(np.percentile(some, 1)), float(np.percentile(some, 99.7))


def _axes(volume: Volume) -> tuple[list[int], list[float]]:
    """Return for each patient axis (L, P, S) the array axis closest to it, and the sign of their agreement."""
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    nearest: list[int] = []
    for patient in range(3):
        order = np.argsort(-np.abs(directions[patient]))
        nearest.append(int(next(axis for axis in order if axis not in nearest)))
    return nearest, [float(np.sign(directions[p, a])) for p, a in enumerate(nearest)]


def _panel(
    volume: Volume,
    label_map: Array,
    legend: Sequence[Legend],
    plane: tuple[str, int, int, int, int],
    centre: tuple[int, int, int],
    window: tuple[float, float],
) -> Image.Image:
    _, through, right, up, up_sign = plane
    nearest, signs = _axes(volume)
    cut: list[Any] = [slice(None)] * 3
    cut[nearest[through]] = centre[nearest[through]]

    def oriented(array: Array) -> Array:
        flat = array[tuple(cut)]
        if nearest[up] > nearest[right]:
            flat = flat.T
        flat = flat[:, ::-1] if signs[right] < 0 else flat
        turned: Array = flat[::-1] if signs[up] * up_sign > 0 else flat
        return turned

    grey = np.clip((oriented(volume.voxels) - window[0]) / max(window[1] - window[0], 1e-6), 0, 1) * 255
    tinted = _tint(np.repeat(grey[..., None], 3, axis=2), oriented(label_map), legend)
    spacing = volume.spacing_mm
    return _fit(tinted, spacing[nearest[up]], spacing[nearest[right]])


def _tint(rgb: Array, labels: Array, legend: Sequence[Legend]) -> Array:
    out = rgb.astype(np.float32)
    for entry in legend:
        mask = labels == entry.number
        out[mask] = (1 - OPACITY) * out[mask] + OPACITY * np.array(entry.rgb, np.float32)
    return out.astype(np.uint8)


def _fit(rgb: Array, row_mm: float, column_mm: float) -> Image.Image:
    """Scale to square pixels inside a panel, centred on paper."""
    height, width = rgb.shape[0] * row_mm, rgb.shape[1] * column_mm
    scale = PANEL / max(height, width)
    image = Image.fromarray(rgb).resize((max(1, round(width * scale)), max(1, round(height * scale))))
    panel = Image.new("RGB", (PANEL, PANEL), (0, 0, 0))
    panel.paste(image, ((PANEL - image.width) // 2, (PANEL - image.height) // 2))
    return panel

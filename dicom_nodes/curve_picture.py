"""A curve of volume over time as a picture (Secondary Capture, PS3.3 A.8.1), for viewers that draw no numbers.

No value may depend on clock or chance: the same curve is the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from appliance.job import ResultContext
from dicom_nodes import origin
from dicom_nodes.secondary_capture import write_picture
from dicom_nodes.source import SourceHeaders

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 610, 60, 340
BACK, LINE, TEXT, MARK = (16, 16, 20), (90, 200, 250), (230, 230, 230), (255, 180, 60)
Curve = Sequence[tuple[float | None, float]]  # (ms after the R-wave where known, ml)


def write_curve(curve: Curve, diastole: int, systole: int, source: SourceHeaders, context: ResultContext) -> bytes:
    """Return a complete Part 10 file with the picture of a volume curve; end-diastole and end-systole are marked."""
    return write_picture(drawn(curve, diastole, systole, context), source, context, origin.CURVE_SERIES)


def drawn(curve: Curve, diastole: int, systole: int, context: ResultContext) -> np.ndarray:
    """Return the picture (rows, columns, 3) uint8."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), BACK)
    draw = ImageDraw.Draw(picture)
    font, small = ImageFont.load_default(16), ImageFont.load_default(12)
    warning = f"  ({origin.NOT_CLINICAL})" if context.not_for_clinical_use else ""
    draw.text((LEFT, 16), f"Left ventricular volume over the beat{warning}", TEXT, font)
    top_ml = 1.1 * max(ml for _, ml in curve)
    points = [place(n, ml, len(curve), top_ml) for n, (_, ml) in enumerate(curve)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = BOTTOM - share * (BOTTOM - TOP)
        draw.line([(LEFT, y), (RIGHT, y)], (50, 50, 56))
        draw.text((12, y - 7), f"{share * top_ml:.0f} ml", TEXT, small)
    draw.line(points, LINE, 3)
    for at, name in ((diastole, "end-diastole"), (systole, "end-systole")):
        x, y = points[at]
        draw.ellipse([(x - 5, y - 5), (x + 5, y + 5)], MARK)
        draw.text((min(x + 8, RIGHT - 90), y + 8), f"{name} {curve[at][1]:.0f} ml", MARK, small)
    times = times_of(curve)
    for n in range(0, len(curve), max(1, len(curve) // 8)):
        draw.text((points[n][0] - 12, BOTTOM + 10), f"{times[n]:.0f}" if times else str(n + 1), TEXT, small)
    draw.text((LEFT, BOTTOM + 30), "ms after the R-wave" if times else "phase", TEXT, small)
    return np.asarray(picture, np.uint8)


def times_of(curve: Curve) -> list[float]:
    """Return the times of all moments, none where one is not known."""
    times = [ms for ms, _ in curve if ms is not None]
    return times if len(times) == len(curve) else []


def place(n: int, ml: float, count: int, top_ml: float) -> tuple[float, float]:
    """Return where a moment lies in the picture."""
    return LEFT + (RIGHT - LEFT) * n / max(1, count - 1), BOTTOM - (BOTTOM - TOP) * ml / top_ml

"""The viewer as a person uses it: open a study, double-click a series, turn to a slice, look at the page.

What is drawn is read from screenshots, what is written from the page's text; the viewer's own state is asked only for
where a point of the patient lies on the page.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset

from tests.acceptance_viewer.browser import Browser

Array = npt.NDArray[Any]
VIEWPORT = (
    "services.cornerstoneViewportService.getCornerstoneViewport(services.viewportGridService.getActiveViewportId())"
)
DISPLAYED = f"{VIEWPORT}?.getCornerstoneImage?.()?.imageId"
OPENED = {  # Modality → what there is on the page once a series is open
    "OT": f"{DISPLAYED}?.includes('/series/SERIES/')",
    "SEG": "services.segmentationService.getSegmentations().length",
    "SR": "!!document.querySelector('[data-annotation-uid]')",
}
PLACE_OF_SERIES = """(() => {
  const found = [...document.querySelectorAll('[data-cy^=study-browser-thumbnail]')];
  const one = found.find(each => each.innerText.split('\\n').includes(%s))?.getBoundingClientRect();
  return one && [one.x + one.width / 2, one.y + one.height / 2];
})()"""
TURN = """(async () => {
  const v = %s, index = v.getImageIds().findIndex(id => id.includes('/instances/%s/'));
  await cornerstone.utilities.jumpToSlice(v.element, { imageIndex: index });
  return v.getCornerstoneImage().imageId === v.getImageIds()[index];
})()"""
PLACES = """(() => {
  const v = %s, at = v.canvas.getBoundingClientRect();
  return %s.map(point => v.worldToCanvas(point)).map(([x, y]) => [at.x + x, at.y + y]);
})()"""
FRAME = (
    f"(() => {{ const at = {VIEWPORT}.canvas.getBoundingClientRect(); return [at.x, at.y, at.width, at.height] }})()"
)
SETTLED_S = 60.0


@dataclass(frozen=True)
class Page:
    """The viewer in a browser. `shown`: the folder where pictures are kept."""

    browser: Browser
    shown: Path

    def open(self, address: str, result: Dataset) -> None:
        """Open a study, and the series of this result once the first image is there."""
        self.browser.open(address)
        self.browser.wait("the first image", DISPLAYED)
        x, y = self.browser.wait(f"the series of {result.Modality}", PLACE_OF_SERIES % json.dumps(result.Modality))
        self.browser.double_click(x, y)
        opened = OPENED[result.Modality].replace("SERIES", result.SeriesInstanceUID)
        self.browser.wait(f"{result.Modality} on the page", opened)

    def turn_to(self, instance: str) -> None:
        """Show the image of this SOP Instance UID."""
        self.browser.wait(f"the image {instance}", TURN % (VIEWPORT, instance))

    def places(self, points: Array) -> Array:
        """Return where points (n, 3) of the patient, LPS mm, lie on the page: (n, 2) of x, y in pixels."""
        return np.array(self.browser.wait("places", PLACES % (VIEWPORT, json.dumps(points.tolist()))))

    def frame(self) -> tuple[float, float, float, float]:
        """Return left, top, width and height of the viewport on the page."""
        left, top, width, height = self.browser.wait("the viewport", FRAME)
        return left, top, width, height

    def look_at(self, instance: str, name: str, sees: Callable[[Array], None]) -> None:
        """Turn to an image and look at the page (rows, columns, 3) until `sees` has no objection; keep the picture.

        An AssertionError is an objection: it may be that not everything is drawn yet, or that the viewer turned away.
        """
        deadline = time.monotonic() + SETTLED_S
        while True:
            self.turn_to(instance)
            file = self.browser.picture(self.shown / f"{name}.png")
            try:
                sees(np.asarray(Image.open(io.BytesIO(file.read_bytes())).convert("RGB"), float))
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
            else:
                return


def in_patient(image: Dataset, rows_and_columns: Array) -> Array:
    """Return places (n, 2) of row, column, 0 the first pixel's centre, as (n, 3) LPS mm (PS3.3 C.7.6.2.1.1)."""
    along = np.array(image.ImageOrientationPatient, float).reshape(2, 3)[::-1]  # down a column, along a row
    steps = along * np.array(image.PixelSpacing, float)[:, None]
    return np.array(image.ImagePositionPatient, float) + rows_and_columns @ steps


def seen_at(page: Array, places: Array) -> Array:
    """Return the colours (n, 3) of the page at places (n, 2) of x, y."""
    columns, rows = np.floor(places).astype(int).T
    return page[rows, columns]


def grey(image: Dataset, rows_and_columns: Sequence[Array]) -> Array:
    """Return the grey 0…255 that an image's window makes of its pixels (PS3.3 C.11.2.1.2.1)."""
    centre, width = float(image.WindowCenter), float(image.WindowWidth)
    stored = image.pixel_array[tuple(rows_and_columns)].astype(float)
    return np.clip((stored - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255

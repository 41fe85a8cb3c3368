"""What a radiologist sees of our results in OHIF, compared with what stands in the files that the PACS holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset
from scipy.ndimage import binary_dilation, binary_erosion

from tests.acceptance_viewer.conftest import Study
from tests.acceptance_viewer.page import Array, Page, grey, in_patient, seen_at

pytestmark = pytest.mark.viewer
AWAY = 2  # voxels from the edge of a segment, where its outline lies
OPACITY = 0.5  # of OHIF's tints
TINT_TOLERANCE, GREY_TOLERANCE, SC_TOLERANCE = 12, 8, 12  # of 255
POINT_TOLERANCE = 1.0  # pixels of the page
LINES = 5  # OHIF writes no more lines of a finding
DASHES = 0.3  # at least this share of an outline is coloured
PANEL = "document.querySelector('[data-cy=panelSegmentation-btn]').click() || true"
ROWS = """[...document.querySelectorAll('[data-cy=data-row]')].map(row => [
  row.querySelector('[data-cy=data-row-title]').innerText,
  row.querySelector('[data-cy=data-row-colorhex]').style.backgroundColor.match(/\\d+/g).map(Number)])"""
WRITTEN = "[...document.querySelectorAll('[data-annotation-uid=\"%s\"] tspan')].map(line => line.textContent.trim())"
DRAWN = "[...document.querySelectorAll('.svg-layer polyline')].map(line => line.getAttribute('points').trim())"


@pytest.mark.parametrize("name", ["sample", "oblique"])
def test_segments_have_their_colours_where_they_are_and_nowhere_else(
    page: Page, studies: dict[str, Study], name: str
) -> None:
    study = studies[name]
    (seg,) = study.results["SEG"]
    page.open(study.address, seg)
    for image, there in slices_to_look_at(seg, study):

        def sees(seen: Array, image: Dataset = image, there: dict[int, Array] = there) -> None:
            check_tints(page, seen, image, there, seg)

        page.look_at(image.SOPInstanceUID, f"{name}-segmentation-{image.InstanceNumber}", sees)


def slices_to_look_at(seg: Dataset, study: Study) -> Iterator[tuple[Dataset, dict[int, Array]]]:
    """Yield each image in which a segment is largest, with the masks (rows, columns) of all segments in it."""
    places = {tuple(np.round(np.array(one.ImagePositionPatient, float), 2)): one for one in study.images.values()}
    masks: dict[str, dict[int, Array]] = {}
    for mask, item in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        number = int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        masks.setdefault(places[tuple(np.round(position, 2))].SOPInstanceUID, {})[number] = mask > 0
    numbers = [int(item.SegmentNumber) for item in seg.SegmentSequence]
    largest = (max(masks, key=lambda uid: masks[uid].get(n, np.zeros(1)).sum()) for n in numbers)
    for uid in dict.fromkeys(largest):
        yield study.images[uid], masks[uid]


def check_tints(page: Page, seen: Array, image: Dataset, there: dict[int, Array], seg: Dataset) -> None:
    """Compare the page inside of each segment, and where no segment is, with what it must show."""
    colours = recommended(seg)
    nowhere = ~binary_dilation(np.logical_or.reduce(list(there.values())), iterations=AWAY)
    check_colour(page, seen, image, nowhere, None)
    for number, mask in there.items():
        inside = binary_erosion(mask, iterations=AWAY)
        if inside.any():
            check_colour(page, seen, image, inside, colours[number][1])


def check_colour(page: Page, seen: Array, image: Dataset, mask: Array, rgb: Array | None) -> None:
    """Compare the page at the voxels of a mask with the image's grey, tinted where there is a colour."""
    voxels = np.argwhere(mask)
    voxels = voxels[:: max(1, len(voxels) // 300)]
    places = page.places(in_patient(image, voxels))
    left, top, width, height = page.frame()
    on_page = ((places > (left, top)) & (places < (left + width, top + height))).all(axis=1)
    expected = np.repeat(grey(image, voxels[on_page].T)[:, None], 3, axis=1)
    if rgb is not None:
        expected = (1 - OPACITY) * expected + OPACITY * rgb
    off = np.abs(seen_at(seen, places[on_page]) - expected).max(axis=1)
    tolerance = GREY_TOLERANCE if rgb is None else TINT_TOLERANCE
    worst = float(np.quantile(off, 0.9))
    assert worst <= tolerance, f"image {image.InstanceNumber}, {'no segment' if rgb is None else rgb}: off by {worst}"


def recommended(seg: Dataset) -> dict[int, tuple[str, Array]]:
    """Return Segment Number → label, and the recommended colour as sRGB 0…255."""
    return {
        int(item.SegmentNumber): (
            str(item.SegmentLabel),
            np.array(hd.color.CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue).to_rgb(), float),
        )
        for item in seg.SegmentSequence
    }


def test_the_panel_names_each_segment_beside_its_colour(page: Page, studies: dict[str, Study]) -> None:
    study = studies["sample"]
    (seg,) = study.results["SEG"]
    page.open(study.address, seg)
    page.browser.wait("the panel", PANEL)
    rows = page.browser.wait("rows of the panel", ROWS)
    expected = list(recommended(seg).values())
    assert [label for label, _ in rows] == [label for label, _ in expected]
    assert np.abs(np.array([rgb for _, rgb in rows]) - [rgb for _, rgb in expected]).max() <= 2
    image, there = max(slices_to_look_at(seg, study), key=lambda one: len(one[1]))
    page.look_at(image.SOPInstanceUID, "sample-panel", lambda seen: check_tints(page, seen, image, there, seg))


@pytest.mark.parametrize("name", ["sample", "oblique", "whole"])
def test_numbers_stand_as_written_beside_the_outline_as_written(
    page: Page, studies: dict[str, Study], name: str
) -> None:
    study = studies[name]
    (report,) = study.results["SR"]
    page.open(study.address, report)
    outlined = {uid: items for uid, items in groups(report).items() if outline_of(items)}
    assert outlined
    for n, (uid, items) in enumerate(outlined.items()):
        outline = outline_of(items)
        assert outline is not None
        image = study.images[outline.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
        page.turn_to(image.SOPInstanceUID)
        shown = page.browser.wait("the numbers", WRITTEN % uid)
        assert_written(shown, items)

        def sees(seen: Array, image: Dataset = image, outline: Dataset = outline) -> None:
            check_outline(page, seen, image, outline)

        page.look_at(image.SOPInstanceUID, f"{name}-report-{n}", sees)


def groups(report: Dataset) -> dict[str, list[Dataset]]:
    """Return Tracking UID → content items of all measurement groups with it, in order (TID 1500)."""
    found: dict[str, list[Dataset]] = {}
    for container in named(report.ContentSequence, "126010"):
        for group in named(container.ContentSequence, "125007"):
            (uid,) = named(group.ContentSequence, "112040")
            found.setdefault(uid.UID, []).extend(group.ContentSequence)
    return found


def named(items: list[Dataset], code: str) -> list[Dataset]:
    """Return content items whose concept name has this code."""
    return [one for one in items if one.ConceptNameCodeSequence[0].CodeValue == code]


def outline_of(items: list[Dataset]) -> Dataset | None:
    """Return the region of a finding (TID 1410)."""
    return next((one for one in items if one.ValueType == "SCOORD"), None)


def assert_written(shown: list[str], items: list[Dataset]) -> None:
    """Compare the lines on the page with the name, the numbers and the finding site in the report."""
    (tracking, *_) = named(items, "112039")
    numbers = [one for one in items if one.ValueType == "NUM"]
    sites = named(items, "363698007")[:1]
    assert len(shown) <= LINES
    name, *lines = ", ".join(shown).split(", ")
    assert name == f"{tracking.TextValue}:"
    assert len(lines) == len(numbers) + len(sites), lines
    assert lines[len(numbers) :] == [f"Finding Site: {one.ConceptCodeSequence[0].CodeMeaning}" for one in sites]
    for line, one in zip(lines, numbers, strict=False):
        concept, value, unit = re.fullmatch(r"(.*): (-?[\d.]+) (\S+)", line).groups()  # type: ignore[union-attr]
        measured = one.MeasuredValueSequence[0]
        assert concept == one.ConceptNameCodeSequence[0].CodeMeaning
        assert unit == measured.MeasurementUnitsCodeSequence[0].CodeValue
        assert float(value) == pytest.approx(float(measured.NumericValue), abs=0.00501)  # OHIF writes two decimals


def check_outline(page: Page, seen: Array, image: Dataset, outline: Dataset) -> None:
    """Compare a polygon on the page with the region in the report, and see that it is drawn (PS3.3 C.18.6.1.2)."""
    ring = np.array(outline.GraphicData, float).reshape(-1, 2)[:, ::-1] - 0.5  # row, column of pixels' centres
    places = page.places(in_patient(image, ring))
    corner = np.array(page.frame()[:2])
    lines = [np.array(re.findall(r"-?[\d.]+", one), float).reshape(-1, 2) for one in page.browser.ask(DRAWN)]
    off = [np.abs(one + corner - places).max() for one in lines if one.shape == places.shape]
    assert min(off, default=np.inf) <= POINT_TOLERANCE, off
    middles = (places[:-1] + places[1:]) / 2
    colourful = [np.ptp(around(seen, middle), axis=2).max() > 80 for middle in middles]
    assert np.mean(colourful) >= DASHES, f"{np.mean(colourful):.2f} of the outline is drawn"


def around(seen: Array, place: Array) -> Array:
    """Return the 5 × 5 pixels around a place (x, y)."""
    column, row = np.floor(place).astype(int)
    return seen[row - 2 : row + 3, column - 2 : column + 3]


def test_pictures_are_shown_as_they_are(page: Page, studies: dict[str, Study]) -> None:
    study = studies["sample"]
    pictures = sorted(study.results["OT"], key=lambda one: int(one.InstanceNumber))
    page.open(study.address, pictures[0])
    assert len(pictures) > 1
    for one in pictures:

        def sees(seen: Array, one: Dataset = one) -> None:
            check_picture(page, seen, one.pixel_array.astype(float))

        page.look_at(one.SOPInstanceUID, f"sample-picture-{one.InstanceNumber}", sees)


def check_picture(page: Page, seen: Array, pixels: Array) -> None:
    """Compare what is seen in the viewport, which shows a picture (rows, columns, 3) as large as it can."""
    left, top, width, height = page.frame()
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    rows, columns = (axis.ravel() for axis in np.mgrid[4 : pixels.shape[0] - 4 : 6, 4 : pixels.shape[1] - 4 : 6])
    middle = np.array([left + width / 2, top + height / 2])
    places = middle + (np.stack([columns, rows], axis=1) + 0.5 - np.array(pixels.shape[1::-1]) / 2) * scale
    expected, bright = pixels[rows, columns], pixels[rows, columns].max(axis=1) > 60
    off = np.abs(seen_at(seen, places) - expected).max(axis=1)
    assert bright.sum() > 100
    right = float(np.mean(off[bright] <= SC_TOLERANCE))
    assert right > 0.8, f"{right:.2f} of the picture is as it should be"


def test_only_this_host_is_asked(page: Page, studies: dict[str, Study]) -> None:
    study = studies["oblique"]
    page.open(study.address, *study.results["SEG"])
    asked = page.browser.ask("performance.getEntriesByType('resource').map(one => new URL(one.name).origin)")
    assert set(asked) == {page.browser.ask("location.origin")}

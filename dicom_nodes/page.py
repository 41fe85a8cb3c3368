"""One page of what was found, as an Encapsulated PDF (PS3.3 A.45.1): a picture, a table, and what made it.

The page names no patient: the object's header does, and a font that knows all alphabets does not come with it.
No value may depend on clock or chance.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from PIL import Image as Pictures
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import Image, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from appliance.finding import Finding
from appliance.growth import sentence_of
from appliance.job import ResultContext
from dicom_nodes import codes, origin
from dicom_nodes.key_slices import numbers
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_classes import ENCAPSULATED_PDF
from dicom_nodes.source import SourceHeaders

LONGEST_NAME = 46  # characters that fit the first column
MOST_LINES = 12  # of two rows each, below a picture
WIDTH = A4[0] - 36 * mm


def write_page(
    findings: Sequence[Finding],
    picture: npt.NDArray[np.uint8] | None,
    source: SourceHeaders,
    context: ResultContext,
) -> bytes:
    """Return a complete Part 10 file with one A4 page.

    `picture`: (rows, columns, 3) of a key slice, None where nothing was found.
    """
    pdf = printed(findings, picture, origin.study_date(source), context)
    ds = origin.started(ENCAPSULATED_PDF, "DOC")
    with lenient():
        origin.stamp(ds, source, context, origin.PAGE_SERIES)
        ds.ConversionType, ds.BurnedInAnnotation = "WSD", "NO"
        ds.AcquisitionDateTime = ""
        ds.DocumentTitle = origin.series_description(context, origin.PAGE_SERIES)
        ds.ConceptNameCodeSequence = [origin.coded(codes.IMAGING_REPORT)]
        ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
        ds.EncapsulatedDocumentLength = len(pdf)
        ds.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
        return origin.part10(ds, {})


def printed(
    findings: Sequence[Finding],
    picture: npt.NDArray[np.uint8] | None,
    study_date: str,
    context: ResultContext,
) -> bytes:
    """Return the page as PDF."""
    style = getSampleStyleSheet()
    warning = "Not for clinical use. " if context.not_for_clinical_use else ""
    story: list[Any] = [
        Paragraph(escape(context.title), style["Heading2"]),
        Paragraph(f"<b>{warning}Made by software without a physician's review.</b>", style["Normal"]),
        Spacer(1, 3 * mm),
    ]
    if picture is not None:
        story += [_image(picture), Spacer(1, 3 * mm)]
    story += [_table(findings), Spacer(1, 3 * mm)]
    compared = [sentence_of(one, context.priors, study_date) for one in findings]
    said = [*(one for one in compared if one), context.limits, _making(context)]
    story += [Paragraph(escape(one), style["BodyText"]) for one in said if one]
    out = io.BytesIO()
    page = SimpleDocTemplate(
        out, pagesize=A4, leftMargin=18 * mm, rightMargin=18 * mm, topMargin=14 * mm, bottomMargin=12 * mm,
        title=context.title, author=origin.MANUFACTURER, invariant=1,
    )  # fmt: skip
    page.build(story)
    return out.getvalue()


def _image(picture: npt.NDArray[np.uint8]) -> Image:
    """Return the picture as wide as the page allows, at most 90 mm high."""
    held = io.BytesIO()
    Pictures.fromarray(picture).save(held, "PNG")
    held.seek(0)
    rows, columns, _ = picture.shape
    scale = min(WIDTH / columns, 90 * mm / rows)
    return Image(held, columns * scale, rows * scale)


def _table(findings: Sequence[Finding]) -> Table:
    """Return name and numbers of each finding; of very many, the largest."""
    told = sorted(findings, key=lambda one: -one.voxels)[:MOST_LINES]
    kept = [one for one in findings if one in told]
    small = ParagraphStyle("small", fontName="Helvetica", fontSize=8, leading=9.5)
    rows: list[list[Any]] = [["Finding", "Measured"]]
    rows += [[_line(one.name), Paragraph(escape(", ".join(numbers(one))), small)] for one in kept]
    if not findings:
        rows.append(["Nothing was found.", ""])
    if len(kept) < len(findings):
        rows.append([f"and {len(findings) - len(kept)} more, see the structured report", ""])
    table = Table(rows, colWidths=[0.36 * WIDTH, 0.64 * WIDTH], hAlign="LEFT")
    table.setStyle(
        TableStyle(
            [
                ("FONTSIZE", (0, 0), (-1, -1), 8),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
                ("TOPPADDING", (0, 0), (-1, -1), 1.5),
                ("LINEBELOW", (0, 0), (-1, 0), 0.5, colors.black),
            ]
        )
    )
    return table


def _line(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 3] + "..."


def _making(context: ResultContext) -> str:
    """Return what made the result."""
    return (
        f"{context.package} {context.package_version}, computed by {context.engine} {context.precision}; "
        f"Petite Curie {context.software_version}; job {context.job_id}."
    )

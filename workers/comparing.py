"""After a job: if another version of its package read the same images, how do the two answers differ?"""

from __future__ import annotations

from pathlib import Path

from appliance.catalogue import Catalogue, comparisons
from appliance.catalogue.comparisons import Answer
from appliance.catalogue.connection import now
from appliance.log import logger
from dicom_nodes.segmentation_reader import read_masks
from models.comparison import Masks, compared


def compare_versions(catalogue: Catalogue, results: Path, job_id: str) -> None:
    """Record how a finished job differs from those of other versions on its input set."""
    with catalogue.read() as connection:
        pairs = comparisons.uncompared(connection, job_id)
    for pair in pairs:
        a, b = masks_of(pair.first, results), masks_of(pair.second, results)
        figures = compared(pair.first.findings, a, pair.second.findings, b)
        with catalogue.write() as connection:
            comparisons.keep(connection, pair, figures, now())
        logger().info("versions_compared", job=job_id, versions=[pair.first.version, pair.second.version])


def masks_of(answer: Answer, results: Path) -> Masks:
    """Return the segments of an answer's SEG; none where nothing was found."""
    if answer.segmentation is None:
        return {}
    found: Masks = read_masks(results / answer.segmentation)
    return found

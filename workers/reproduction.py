"""A result once more: the same images, the same version of the package, compared with what was stored.

On the same engine it must come out the same to the byte. On another one it is compared by Dice and by its numbers.
Nothing is sent, stored or changed.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from appliance.catalogue import Catalogue, forgetting, jobs
from appliance.errors import Missing, StudyBlocked
from appliance.settings import Settings
from dicom_nodes.segmentation_reader import read_masks
from models.comparison import compared
from workers.pipeline import Made
from workers.result_set import MadeObject
from workers.tasks import Worker, finding_record

LEAST_DICE = 0.99  # of every segment, for another engine's answer to count as the same


@dataclass(frozen=True)
class Reproduced:
    """How the second run compares with the first."""

    same: bool
    identical: int  # objects that are the same to the byte
    objects: int
    engine: str  # of the second run
    engine_before: str
    dice: Mapping[str, float]  # by segment, only of another engine
    differences: Mapping[str, Any]  # of every measurement, likewise


def reproduce(settings: Settings, catalogue: Catalogue, result_uid: str) -> Reproduced:
    """Run the job of a result again. Raises Missing, StudyBlocked where images are gone, and what a job may raise."""
    with catalogue.read() as connection:
        job_id = jobs.of_result(connection, result_uid)
        if job_id is None:
            raise Missing(f"no result has the SOP Instance UID {result_uid}; `curie explain STUDY` shows them")
        held, engine_before, findings = jobs.held_before(connection, job_id)
        stored = jobs.stored_results(connection, job_id)
        gone = forgetting.forgotten(connection, held.study_instance_uid)
    if gone is not None:
        raise StudyBlocked(f"the study of this result was {gone}; its images are deleted")
    if held.tells:
        raise StudyBlocked("this result says that there was none; no model ran for it")
    worker = Worker(settings, catalogue, "reproduce")
    try:
        made = worker.made(held, lambda: None)
    finally:
        worker.engine.kill()
    return judged(made, stored, findings, engine_before, settings.results_dir)


def judged(
    made: Made, stored: Mapping[str, tuple[str, str, str]], findings: Any, engine_before: str, results: Path
) -> Reproduced:
    """Compare what was made again with the stored objects: SOP Instance UID → (role, path, SHA-256)."""
    engine = f"{made.inferred.engine} {made.inferred.precision}"
    digests = {one.at.sop_instance_uid: hashlib.sha256(one.content).hexdigest() for one in made.objects}
    identical = sum(digests.get(uid) == digest for uid, (_, _, digest) in stored.items())
    first = Reproduced(identical == len(stored), identical, len(stored), engine, engine_before, {}, {})
    if first.same or engine == engine_before:
        return first
    before = next((path for role, path, _ in stored.values() if role == "SEG"), None)
    again = next((one for one in made.objects if one.role == "SEG"), None)
    masks_before = read_masks(results / before) if before else {}
    figures = compared(
        findings, masks_before, [finding_record(one) for one in made.findings], _masks(again) if again else {}
    )
    same = all(value >= LEAST_DICE for value in figures["dice"].values()) and all(
        one == two for one, two in figures["present"].values()
    )
    return replace(first, same=same, dice=figures["dice"], differences=figures["differences"])


def _masks(made: MadeObject) -> Any:
    with tempfile.TemporaryDirectory(prefix="curie-") as folder:
        path = Path(folder) / "seg.dcm"
        path.write_bytes(made.content)
        return read_masks(path)

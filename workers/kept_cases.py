"""Labelled volumes → cases of the training set: durable files first, then rows. And what ends their time.

A file holds arrays and a patient's hash; the catalogue holds whose label it is. It must never keep anything of a
patient who opted out.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from appliance.catalogue import Catalogue, training
from appliance.catalogue.connection import now
from appliance.catalogue.training import KeptCase
from appliance.errors import ResultRejected
from appliance.job import NAMESPACE
from appliance.log import logger
from appliance.settings import Settings
from appliance.training_set import folder_of, kept_since
from appliance.volume import Volume
from dicom_nodes.label_reader import Labels
from dicom_nodes.spool import write_durably
from models.declaration import Declaration
from models.holding_back import is_held_back
from workers.labelling import pieces

ORPHANED_S = 3600.0  # after which a file without a row is nobody's


@dataclass(frozen=True)
class Told:
    """Where a label comes from."""

    source: str  # correction | import
    label_uid: str
    author: str
    at: datetime
    study_instance_uid: str
    series_instance_uid: str
    patient: str  # a hash, as `patient_hash` gives it
    scanner: str


def write_cases(
    settings: Settings, declared: Declaration, volume: Volume, labels: Labels, regions: Sequence[str], told: Told
) -> list[KeptCase]:
    """Write the cases of one labelled volume and return the rows for `training.keep`; none where it holds no label."""
    rows = []
    for piece in pieces(volume, labels, declared, regions):
        content = _content(piece.volume, piece.labels, told)
        digest = hashlib.sha256(content).hexdigest()
        identity = str(uuid.uuid5(NAMESPACE, f"case|{declared.id}|{told.label_uid}|{piece.region}"))
        path = f"{declared.id}/{identity}.{digest[:8]}.npz"
        write_durably(folder_of(settings) / path, content)
        rows.append(
            KeptCase(
                identity, declared.id, told.study_instance_uid, told.series_instance_uid, piece.region, told.patient,
                told.scanner, told.source, told.label_uid, told.author, told.at, now(), path, digest,
                int(is_held_back(told.patient, settings.appliance_uid)),
            )
        )  # fmt: skip
    return rows


def _content(volume: Volume, labels: Labels, told: Told) -> bytes:
    """Return the bytes of one case, the same for the same arrays."""
    with io.BytesIO() as file:
        np.savez_compressed(
            file, voxels=volume.voxels, affine=volume.affine, labels=labels, patient=np.array(told.patient),
            scanner=np.array(told.scanner),
        )  # fmt: skip
        return file.getvalue()


def keep(
    settings: Settings, catalogue: Catalogue, declared: Declaration, volume: Volume, labels: Labels,
    regions: Sequence[str], told: Told,
) -> int:  # fmt: skip
    """Keep a labelled volume as cases and return how many. Raises ResultRejected with the reason where none is kept."""
    refuse_opted_out(catalogue, told.patient)
    rows = write_cases(settings, declared, volume, labels, regions, told)
    with catalogue.write() as connection:
        refused = training.keep(connection, rows, now()) if rows else "it holds no voxel of any structure"
    if refused:
        raise ResultRejected(refused)
    return len(rows)


def refuse_opted_out(catalogue: Catalogue, patient: str) -> None:
    """Raise ResultRejected for a patient of whom nothing is to be written."""
    with catalogue.read() as connection:
        if training.is_opted_out(connection, patient):
            raise ResultRejected(training.OPTED_OUT)


def sweep(settings: Settings, catalogue: Catalogue, at: datetime) -> None:
    """Withdraw the cases whose time is over, and delete the files that no case has."""
    with catalogue.write() as connection:
        expired = training.expire(connection, kept_since(settings, at), at)
    with catalogue.read() as connection:
        held = training.live_paths(connection)
    old = at.timestamp() - ORPHANED_S
    folder = folder_of(settings)
    lost = [one for one in folder.glob("*/*") if str(one.relative_to(folder)) not in held and one.stat().st_mtime < old]
    for path in lost:
        path.unlink(missing_ok=True)
    if expired or lost:
        logger().info("cases_removed", expired=expired, files=len(lost))


def opt_out(settings: Settings, catalogue: Catalogue, patient: str, reason: str) -> int:
    """Learn nothing of a patient from now on; returns how many cases were withdrawn. Their files are deleted."""
    with catalogue.write() as connection:
        withdrawn = training.opt_patient_out(connection, patient, reason, now())
        gone = training.withdrawn_paths(connection, patient)
    for path in gone:
        (folder_of(settings) / path).unlink(missing_ok=True)
    return withdrawn


def opt_in(catalogue: Catalogue, patient: str, reason: str) -> bool:
    """Let labels of a patient be kept again; what was withdrawn stays so. False if nobody had opted out."""
    with catalogue.write() as connection:
        return training.opt_patient_in(connection, patient, reason)

"""Jobs: their identity, their states, and what a result is derived from. Values only, no I/O.

States map to UPS states (PS3.4 Table CC.1.1-1): queued = SCHEDULED, running and delivering = IN PROGRESS,
completed and unsuitable = COMPLETED, failed, cancelled and superseded = CANCELED. The workitem of an unsuitable study
is CANCELED nevertheless (workers/performing.py).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

# from state → states it may change to; the catalogue's queries take their conditions from here
TRANSITIONS: dict[str, frozenset[str]] = {
    "queued": frozenset({"running", "failed", "cancelled", "superseded"}),
    "running": frozenset({"queued", "delivering", "completed", "unsuitable", "failed", "cancelled", "superseded"}),
    "delivering": frozenset({"completed", "failed", "superseded"}),
    "completed": frozenset({"delivering", "superseded"}),  # a further destination
    "unsuitable": frozenset({"queued"}),
    "failed": frozenset({"queued", "delivering", "superseded"}),
    "cancelled": frozenset({"queued"}),
    "superseded": frozenset({"queued"}),  # its images are the current ones again, and it never had results
}
STATES = tuple(TRANSITIONS)
NAMESPACE = uuid.UUID("6f3a2f0e-52c5-5d6e-9d42-1914c0de1914")  # of all UUIDv5 this project derives


def may_become(state: str) -> tuple[str, ...]:
    """Return the states that may change to `state`."""
    return tuple(before for before, after in TRANSITIONS.items() if state in after)


def derived_uid(*parts: object) -> str:
    """Return the DICOM UID `2.25.` + UUIDv5 of the parts (PS3.5 Annex B.2); equal parts, equal UID."""
    return f"2.25.{uuid.uuid5(NAMESPACE, json.dumps(parts, separators=(',', ':'))).int}"


def input_set_digest(instances: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of the sorted (SOP Instance UID, content digest) pairs."""
    text = json.dumps(sorted(instances), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def job_id(input_set: str, package_digest: str) -> str:
    """Return the UUIDv5 that names the job of this input set and package digest."""
    return str(uuid.uuid5(NAMESPACE, f"{input_set}|{package_digest}"))


@dataclass(frozen=True)
class ObjectReference:
    """A DICOM object that another one points at."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str = ""


@dataclass(frozen=True)
class Prior:
    """What an earlier study's result says of a finding that is tracked."""

    tracking_uid: str
    study_date: str  # YYYYMMDD
    values: tuple[tuple[str, str, float], ...]  # code value of the measurement, UCUM unit, number
    report: ObjectReference


@dataclass(frozen=True)
class ResultContext:
    """All that a result object says of its making, apart from images and findings."""

    appliance_name: str  # Institution Name is the source's; this one names the device
    appliance_uid: str  # tells appliances apart; Device UID and serial number
    software_version: str  # of Petite Curie
    job_id: str
    package: str  # e.g. "brain-structures"
    package_version: str
    package_digest: str  # SHA-256 of the package's canonical manifest
    title: str  # Series Description begins with it
    engine: str  # rung of the ladder that ran, e.g. "openvino"
    precision: str  # e.g. "f32"
    made_at: datetime  # fixed when results are first made: content date and time of every object
    writer_version: int = 4  # of the writers of results; new bytes need a new number
    report_settings: str = ""  # whatever else of the settings changes bytes
    skipped: tuple[tuple[str, str], ...] = ()  # rungs above the engine, and why they were not taken
    located_by: str = ""  # the package that found where to look, "id@version"
    supersedes: tuple[ObjectReference, ...] = ()  # results that these replace
    not_for_clinical_use: bool = True
    limits: str = ""  # of the package, as its card says them
    weights_digest: str = ""  # SHA-256 of weights.safetensors
    training_round: str = ""  # federated round that made the weights
    patient_key: str = ""  # the catalogue's digest that tells patients apart
    priors: tuple[Prior, ...] = ()  # of this patient and package, the latest of each tracked finding

    def uid(self, role: str, ordinal: int = 0) -> str:
        """Return the UID of the object or tracked finding `role`, always the same for this context."""
        return derived_uid(
            self.appliance_uid,
            self.job_id,
            self.writer_version,
            self.report_settings,
            self.engine,
            self.precision,
            [list(one) for one in self.skipped],
            self.located_by,
            [one.sop_instance_uid for one in self.supersedes],
            [[one.tracking_uid, one.report.sop_instance_uid] for one in self.priors],
            role,
            ordinal,
        )

    def tracking_uid(self, of: str, ordinal: int = 0) -> str:
        """Return the Tracking Unique Identifier of something that a package names, e.g. a structure by code and side.

        The same in every study of a patient, whatever version of the package reads it, so that results can be
        followed over time. Without a known patient it is this job's alone, as every one with an `ordinal` is.
        """
        if not self.patient_key or ordinal:
            return self.uid(f"tracking-{of}", ordinal)
        return derived_uid(self.appliance_uid, "tracking", self.patient_key, self.package, of)

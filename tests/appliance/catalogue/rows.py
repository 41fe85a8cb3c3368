"""Rows for tests of the catalogue: instances, studies and jobs, made through the catalogue's own queries."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection

from appliance.catalogue import Catalogue, evidence, receiving, routing, studies
from appliance.catalogue.connection import now
from appliance.catalogue.receiving import ReceivedInstance
from appliance.catalogue.routing import RoutedPackage
from appliance.routing import RouteDecision

PACKAGE = RoutedPackage("route", "brain", "1.0.0", "digest", ("pacs",), 9)


def instance(uid: str = "1.1", study: str = "1", series: str = "1.9", **change: object) -> ReceivedInstance:
    """Return one image as the indexer would."""
    values: dict[str, object] = {
        "sop_instance_uid": uid,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.4",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "study_instance_uid": study,
        "series_instance_uid": series,
        "path": f"ab/{study}-{uid}.dcm",
        "bytes": 1,
        "header_digest": f"h{uid}",
        "pixel_digest": f"p{uid}",
        "patient_key": "patient",
        "state": "current",
        "received_at": now(),
        "modality": "MR",
    }
    return ReceivedInstance(**{**values, **change})  # type: ignore[arg-type]


def receive(connection: Connection, row: ReceivedInstance, revision: int = 1) -> None:
    """Write one image, its series and its study."""
    receiving.add_instance(connection, row, revision, row.state)
    studies.grow(connection, [row])
    studies.grow_series(connection, [row])


def complete_and_route(connection: Connection, study: str = "1", package: RoutedPackage = PACKAGE) -> str | None:
    """Complete a study and give its series to a package; returns the job that is new."""
    facts = evidence.receiving_studies(connection, now()).get(study)
    if facts is not None:
        evidence.complete_study(connection, study, "released", facts.last_received_at, now())
    summary = routing.study_summary(connection, study)
    job = RouteDecision("job", "", (("image", "1.9"),))
    outcome = RouteDecision("failed", summary.problem) if summary.problem else job
    new = routing.record_decision(connection, summary, package, outcome, now())
    routing.mark_routed(connection, study, now())
    return new


def queued_job(catalogue: Catalogue, study: str = "1", package: RoutedPackage = PACKAGE) -> str:
    """Return the id of a queued job on a fresh study of one image."""
    with catalogue.write() as connection:
        receive(connection, instance(uid=f"{study}.1", study=study))
        new = complete_and_route(connection, study, package)
    assert new is not None
    return new


def later(seconds: float) -> object:
    """Return a moment `seconds` from now."""
    return now() + timedelta(seconds=seconds)

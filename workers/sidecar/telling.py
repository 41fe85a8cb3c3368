"""How a site takes part, as a record for people and programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import Row

from appliance.catalogue import open_catalogue, trials
from appliance.errors import Missing
from appliance.federation_settings import Federation
from appliance.settings import Settings
from workers.sidecar.cases import count_cases
from workers.sidecar.hardening import kit_of
from workers.sidecar.joining import days_left
from workers.sidecar.places import Places

LAST = 20  # lines of the ledger


def told_of(settings: Settings, own: Federation) -> dict[str, Any]:
    """Return state, cases, privacy spent and the last lines of the ledger."""
    places = Places(settings.data_dir)
    try:
        site = kit_of(own.kit)["site"]
    except Missing:
        site = ""
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        counts = {package: count_cases(settings, catalogue, package) for package in own.packages}
        with catalogue.read() as connection:
            candidates = [candidate(row) for row in trials.of_package(connection)[:LAST]]
    finally:
        catalogue.close()
    return {
        "site": site,
        "coordinator": own.coordinator,
        "paused": places.paused.exists(),
        "certificate_days": days_left(own),
        "epsilon_budget": own.epsilon_budget,
        "packages": [
            {"package": name, "cases": count, "epsilon": places.ledger.epsilon(name)} for name, count in counts.items()
        ],
        "arrived": sorted(path.name for path in places.arrived.glob("*.zip")),
        "candidates": candidates,
        "left": [asdict(one) for one in places.ledger.entries()[-LAST:]],
    }


def candidate(row: Row[Any]) -> dict[str, Any]:
    """Return a candidate's way so far: where it stands, since when and why, and its figures on held-back cases."""
    return {
        "package": row.package,
        "version": row.version,
        "state": row.state,
        "reason": row.reason,
        "arrived_at": row.arrived_at.isoformat(timespec="seconds"),
        "state_at": row.state_at.isoformat(timespec="seconds"),
        "scores": row.scores,
    }

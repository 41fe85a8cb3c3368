"""Federation: rounds, how far each candidate is, what left this site and what privacy that cost."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from appliance.catalogue import processes
from appliance.catalogue.connection import now
from appliance.console.visit import Visit
from appliance.settings import Settings

# the way of a candidate, in order (appliance/trial.py); another state has left it
WAY = ("shadow", "ready", "promoted")
MOST_CYCLES = 20


def page(visit: Visit) -> Response:
    """Show both sides, as far as this appliance has them."""
    settings = visit.desk.settings
    with visit.desk.catalogue.read() as connection:
        found = processes.listing(connection, now())
    running = {one["name"] for one in found if one["healthy"]}
    return visit.show("federation.html", site=_site(settings), cycles=_cycles(settings), running=running, way=WAY)


def _site(settings: Settings) -> dict[str, Any] | None:
    """Return how this site takes part; None where it does not."""
    if settings.federation is None:
        return None
    from workers.sidecar.telling import told_of

    told = told_of(settings, settings.federation)
    return {**told, "left": list(reversed(told["left"])), "privacy": settings.federation.privacy}


def _cycles(settings: Settings) -> list[dict[str, Any]] | None:
    """Return the latest cycles of rounds, the newest first; None where this is no coordinator."""
    if settings.coordinator is None:
        return None
    from workers.coordinator.telling import told_of

    return sorted(told_of(settings.data_dir), key=lambda one: str(one["started_at"]), reverse=True)[:MOST_CYCLES]

"""Destinations: where results go, what waits there, and what was answered."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from appliance.catalogue import events, flow, outbox
from appliance.console.visit import Visit

STATES = ("waiting", "delivered", "committed", "rejected", "withdrawn")


def page(visit: Visit) -> Response:
    """Show every destination of the settings, and those that parcels were for."""
    return visit.show("destinations.html", **_told(visit), answered=None)


def _told(visit: Visit) -> dict[str, Any]:
    with visit.desk.catalogue.read() as connection:
        counted = flow.destinations(connection)
        rejected = flow.rejected(connection)
        not_taken = outbox.not_taken_by(connection)
    set_here = {one.name: one for one in visit.desk.settings.destinations}
    names = [*set_here, *sorted(name for name in counted if name not in set_here)]
    told = [{"name": name, "set": set_here.get(name), "counted": counted.get(name, {})} for name in names]
    return {"destinations": told, "rejected": rejected, "not_taken": not_taken, "states": STATES}


def test(visit: Visit) -> Response:
    """Ask a destination whether it answers and takes what it is sent, as `curie destinations test` does."""
    from appliance.cli.destinations import probe

    settings = visit.desk.settings
    found = probe(settings.destination(visit.path["name"]), settings.sender.ae_title)
    with visit.desk.catalogue.write() as connection:
        events.record(
            connection, "destination_tested", who=visit.visitor.name, destination=found["name"], answered=found["ok"]
        )
    return visit.show("destinations.html", **_told(visit), answered=found)

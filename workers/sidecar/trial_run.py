"""A candidate is looked at: a process of its own, because it loads torch and what came from outside.

    python -m workers.sidecar.trial_run

For each line of stdin, a folder: reads package.zip in it, installs it, puts it through the gate, holds it against the
active version on the cases that this site held back, writes outcome.json and says "done".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from appliance.catalogue import Catalogue, open_catalogue, packages
from appliance.catalogue.connection import now
from appliance.errors import CurieError, Missing, PackageRefused
from appliance.log import logger, start_logging
from appliance.package_life import VersionRow
from appliance.settings import Settings, load
from models import gate, hold_out
from models.engines.torch import trained_network
from models.package import Package
from models.registry import Registry, open_registry
from workers.gate import put_through
from workers.sidecar.cases import held_back_cases


def main() -> None:
    """Try packages until stdin ends."""
    start_logging("sidecar-trial")
    settings = load()
    for line in sys.stdin:
        folder = Path(line.strip())
        catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
        try:
            outcome = tried(folder / "package.zip", settings, catalogue)
        except CurieError as error:
            outcome = {"state": "refused", "reason": str(error)}
        finally:
            catalogue.close()
        (folder / "outcome.json").write_text(json.dumps(outcome))
        logger().info("candidate_tried", **{name: outcome[name] for name in ("state", "reason")})
        print("done", flush=True)


def tried(source: Path, settings: Settings, catalogue: Catalogue) -> dict[str, Any]:
    """Return what came of a candidate: package, version, state, reason and scores. Raises CurieError where refused."""
    registry = open_registry(settings, catalogue)
    row, _ = registry.install(source, lambda package: look_into(package, registry))
    told = {"package": row.package, "version": row.version}
    try:
        put_through(registry, registry.row(row.name))
    except PackageRefused as error:
        _retire(catalogue, registry.row(row.name), str(error))
        return told | {"state": "refused", "reason": str(error)}
    return told | judged(registry, registry.row(row.name))


def look_into(package: Package, registry: Registry) -> None:
    """Raise PackageRefused unless the package comes from a round whose parent this site knows, and passes the gate."""
    lineage = package.manifest.lineage
    if lineage.round is None or not lineage.parent_digest:
        raise PackageRefused(f"{package.name} names no round that it came from")
    try:
        parent = registry.of_digest(lineage.parent_digest)
    except Missing:
        raise PackageRefused(f"{package.name} comes from {lineage.parent}, which was never installed here") from None
    if parent.id != package.id:
        raise PackageRefused(f"{package.name} comes from another package, {parent.name}")
    gate.inspect(package)


def judged(registry: Registry, row: VersionRow) -> dict[str, Any]:
    """Hold a candidate against the active version; put it in shadow, or retire it."""
    with registry.catalogue.read() as connection:
        held = packages.active(connection, row.package)
    if held is None:
        return {"state": "unjudged", "reason": f"no version of {row.package} is active here; a person decides"}
    candidate, active = registry.load(row), registry.load(held)
    readers = reader(registry, candidate), reader(registry, active)
    found = hold_out.scores(*readers)
    told: dict[str, Any] = {"scores": [one.record() for one in found]}
    if not found:
        return told | {"state": "unjudged", "reason": "this site has no held-back case to judge by; a person decides"}
    lost = hold_out.worse(found, active.manifest.hold_out_margin)
    if lost:
        _retire(registry.catalogue, row, lost)
        return told | {"state": "worse", "reason": lost}
    with registry.catalogue.write() as connection:
        packages.set_state(connection, row, "shadow", now())
    return told | {"state": "shadow", "reason": f"no worse on {len(readers[0].cases)} held-back cases"}


def reader(registry: Registry, package: Package) -> hold_out.Reader:
    """Return a version's network with the cases that this site held back, as it sees them."""
    cases = held_back_cases(registry.settings, registry.catalogue, package)
    return hold_out.reader_of(package, trained_network(package), cases)


def _retire(catalogue: Catalogue, row: VersionRow, reason: str) -> None:
    with catalogue.write() as connection:
        packages.set_state(connection, row, "retired", now(), reason=reason)


if __name__ == "__main__":
    main()

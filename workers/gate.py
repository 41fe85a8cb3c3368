"""Put a version through the gate on this host: its engines are built and held against its golden cases.

In an engine process of its own, like a study, so that whatever an engine does ends there.
"""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

from appliance.catalogue import packages
from appliance.catalogue.connection import now
from appliance.errors import EngineUnavailable, PackageRefused
from appliance.package_life import VersionRow
from models.registry import Registry
from workers.engine_process import EngineProcess, Wanted

REPORTED = ("engine", "precision", "skipped", "parity", "memory_mb")


def put_through(registry: Registry, row: VersionRow) -> None:
    """Make an installed version a candidate. Raises PackageRefused if no engine agrees with its golden cases."""
    settings = registry.settings
    package = registry.load(row)
    wanted = Wanted(package, registry.locator(package))
    with tempfile.TemporaryDirectory() as folder:
        engine = EngineProcess(settings.worker, Path(folder), settings.data_dir / "engines")
        try:
            ran = engine.load(wanted)
        except EngineUnavailable as error:
            raise PackageRefused(str(error)) from error
        finally:
            engine.kill()
    report = {"host": socket.gethostname(), "device": settings.worker.device, "package_digest": row.digest}
    with registry.catalogue.write() as connection:
        packages.keep_engine_report(connection, report | {one: ran[one] for one in REPORTED}, now())
        if row.state == "installed":
            packages.set_state(connection, row, "candidate", now())

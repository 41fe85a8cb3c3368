"""Whether a process of this host is alive, by the heartbeat it writes: `python healthy.py [PROCESS]`; exit code 0 or 1.

Without PROCESS all that `curie up` runs. For health checks of containers, so it must never migrate, make a file or wait
long. A PostgreSQL that does not answer says nothing about this process, and starting it again would not bring it back.
"""

from __future__ import annotations

import os
import socket
import sys

from sqlalchemy import exc

from appliance.catalogue import Catalogue, processes
from appliance.catalogue.connection import now
from appliance.errors import CurieError
from appliance.settings import Settings, load


def health(process: str | None) -> str:
    """Return what is wrong, or "". Raises CurieError where the settings cannot be read."""
    settings = load()
    file = settings.catalogue_url.removeprefix("sqlite:///")
    if file != settings.catalogue_url and not os.path.exists(file):
        return "nothing ran here yet"
    catalogue = Catalogue(settings.catalogue_url)
    try:
        with catalogue.read() as connection:
            everywhere = processes.listing(connection, now())
    except exc.OperationalError as error:
        return "" if catalogue.engine.dialect.name == "postgresql" else f"the catalogue cannot be read: {error.orig}"
    except exc.ProgrammingError:
        return "nothing ran here yet"
    finally:
        catalogue.close()
    return _wrong(process, [one for one in everywhere if one["host"] == socket.gethostname()], settings)


def _wrong(process: str | None, here: list[dict[str, object]], settings: Settings) -> str:
    if process is None:
        from appliance.cli.operate import is_ready  # brings the whole command line

        return "" if is_ready(here, settings) else "not every process beats"
    found = [one for one in here if one["name"] == process or str(one["name"]).startswith(f"{process}-")]
    return "" if any(one["healthy"] for one in found) else f"{process} does not beat"


if __name__ == "__main__":
    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")
    try:
        wrong = health(sys.argv[1] if len(sys.argv) > 1 else None)
    except CurieError as error:
        wrong = str(error)
    print(wrong or "healthy")
    sys.exit(bool(wrong))

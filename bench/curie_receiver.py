"""What is asked of a running `curie run receiver`: which of its processes acknowledge, and whether all is indexed.

It reads the catalogue through the catalogue's own queries, and must never write there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import OperationalError

from appliance.catalogue import Catalogue, processes, receiving
from appliance.catalogue.connection import now
from bench.pdus import Broken

INDEXER = "receiver-indexer"
INDEX_S = 180.0
POLL_S = 0.1


@contextmanager
def catalogue_in(folder: Path) -> Iterator[Catalogue]:
    """Open the catalogue of the receiver that runs in a folder."""
    catalogue = Catalogue(f"sqlite:///{folder / 'data' / 'curie.db'}")
    try:
        yield catalogue
    finally:
        catalogue.close()


def indexer_pid(folder: Path) -> int | None:
    """Return the process that writes the catalogue, or None where the receiver is one process."""
    with catalogue_in(folder) as catalogue, catalogue.read() as connection:
        rows = processes.listing(connection, now())
    return next((int(row["pid"]) for row in rows if row["name"] == INDEXER), None)


def wait_until_indexed(folder: Path, count: int) -> float:
    """Return how many seconds passed until the catalogue has a row for `count` files. Raises Broken."""
    started = time.monotonic()
    with catalogue_in(folder) as catalogue:
        while (found := _indexed(catalogue)) < count:
            if time.monotonic() - started > INDEX_S:
                raise Broken(f"curie has indexed {found} of {count} after {INDEX_S:.0f} s")
            time.sleep(POLL_S)
    return time.monotonic() - started


def _indexed(catalogue: Catalogue) -> int:
    try:
        with catalogue.read() as connection:
            return len(receiving.paths_known(connection))
    except OperationalError:  # it is being made
        return 0

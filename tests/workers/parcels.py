"""Jobs whose results wait in the outbox, and what became of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from appliance.catalogue import Catalogue, jobs, overview
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import NewResult
from appliance.catalogue.tables import event, result
from appliance.catalogue.tables import outbox as outbox_table
from appliance.settings import Settings, parse
from dicom_nodes.spool import write_durably
from tests.appliance.catalogue.rows import PACKAGE, queued_job
from tests.phantoms import Phantom, part10, series

CT, SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"
MR = "1.2.840.10008.5.1.4.1.1.4"
DESTINATION = '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\n{more}\n'


def settings_for(folder: Path, port: int, more: str = "") -> Settings:
    """Return settings with one destination on loopback."""
    return parse(DESTINATION.format(port=port, more=more), folder / "curie.toml")


def waiting_job(
    catalogue: Catalogue,
    settings: Settings,
    kinds: tuple[tuple[str, str], ...] = (("SEG", MR), ("SR", MR)),
    study: str = "1",
    variants: dict[int, str] | None = None,
) -> str:
    """Return a job with results of these roles and SOP classes that wait for the destination."""
    package = replace(PACKAGE, destinations=tuple(one.name for one in settings.destinations))
    identity = queued_job(catalogue, study, package)
    results = []
    for n, ((role, sop_class), ds) in enumerate(zip(kinds, series(Phantom(slices=len(kinds))), strict=True)):
        ds.SOPClassUID = sop_class
        content = part10(ds)
        path = f"{study}/{n}-{role}.dcm"
        write_durably(settings.results_dir / path, content)
        digest, variant = hashlib.sha256(content).hexdigest(), (variants or {}).get(n, "")
        uid = str(ds.SOPInstanceUID)
        results.append(NewResult(uid, sop_class, "1.2", role, path, digest, len(content), variant))
    taken = {one.name: tuple(role for role, _ in kinds) for one in settings.destinations}
    with catalogue.write() as connection:
        held = jobs.claim(connection, "w", now())
        assert held is not None
        jobs.commit_results(connection, held, results, taken, {"engine": "e", "timings": {}, "findings": []}, now())
    return identity


def rows(catalogue: Catalogue) -> list[Any]:
    """Return the rows of the outbox."""
    with catalogue.read() as connection:
        return list(connection.execute(select(outbox_table).order_by(outbox_table.c.id)).all())


def states(catalogue: Catalogue) -> list[str]:
    """Return the states of the parcels, in the order of their results."""
    return [row.state for row in rows(catalogue)]


def by_result(catalogue: Catalogue) -> dict[str, str]:
    """Return the states of the parcels by the number and role of their results, as "0-SEG"."""
    query = select(result.c.path, outbox_table.c.state).join(
        result, result.c.sop_instance_uid == outbox_table.c.sop_instance_uid
    )
    with catalogue.read() as connection:
        return {Path(path).stem: state for path, state in connection.execute(query.order_by(result.c.path))}


def job_state(catalogue: Catalogue, job: str) -> str:
    """Return the state of a job."""
    with catalogue.read() as connection:
        return str(overview.job_record(connection, job)["state"])


def make_due(catalogue: Catalogue) -> None:
    """Let nothing wait any longer."""
    with catalogue.write() as connection:
        connection.execute(update(outbox_table).values(due_at=now() - timedelta(seconds=1)))


def happened(catalogue: Catalogue, kind: str) -> int:
    """Return how many events of a kind there are."""
    with catalogue.read() as connection:
        return len(connection.execute(select(event.c.seq).where(event.c.kind == kind)).all())

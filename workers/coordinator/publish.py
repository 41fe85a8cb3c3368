"""The end of a cycle: its weights become a signed candidate package of the next patch version.

    python -m workers.coordinator.publish PACKAGE CYCLE

A process of its own, because it needs torch. The package differs from its parent in weights, graph, golden answers and
lineage alone; the coordinator's key signs it, and every site tries it on its own data before it may read a study.
"""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from appliance.catalogue import open_catalogue
from appliance.errors import CurieError
from appliance.log import logger, start_logging
from appliance.settings import Settings, load
from models.engines.torch import trained_network
from models.federation import Weights, digest_of
from models.local_pass import put_into
from models.package import Package, files_in, sign_package
from models.packaging import write_package
from models.parity import FOLDER, from_bytes
from models.registry import open_registry
from models.signing import make_key, read_private_key, site_key
from workers.coordinator.lineage import CycleRecord, Lineage, RoundRecord, next_version

NOTE = """
## Federated rounds
Version {version} comes from {parent} by {rounds} federated rounds of the cycle `{cycle}`, in which {sites} took part.
Images stayed where they were; the coordinator joined the sites' changes of the weights. Figures above are the parent's.
Weights: `{digest}`.
"""


def main(package: str, cycle: str) -> int:
    """Publish one cycle; the cycle's record says how it ended."""
    start_logging("coordinator-publish")
    settings = load()
    lineage = Lineage(settings.data_dir, package)
    record = lineage.cycle(cycle)
    try:
        made = publish(record, lineage, settings)
    except CurieError as error:
        lineage.change(record, state="refused", why=f"the package could not be made: {error}")
        logger().error("not_published", cycle=cycle, cause=str(error))
        return 1
    lineage.change(record, state="published", candidate=made)
    logger().info("published", cycle=cycle, package=package, version=made)
    return 0


def publish(cycle: CycleRecord, lineage: Lineage, settings: Settings) -> str:
    """Write, sign and pack the candidate of a cycle; returns its version."""
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        parent = open_registry(settings, catalogue).of_digest(cycle.package_digest)
    finally:
        catalogue.close()
    rounds = lineage.rounds(cycle.id)
    version = unused_version(cycle.version, lineage)
    folder = lineage.folder / "candidates" / f"{cycle.package}-{version}"
    shutil.rmtree(folder, ignore_errors=True)
    write_candidate(parent, lineage.weights(rounds[-1]), (cycle, rounds, version), folder)
    sign(folder, settings.data_dir)
    pack(folder)
    return version


def unused_version(version: str, lineage: Lineage) -> str:
    """Return the next patch version that no cycle of the package has published."""
    taken = {one.candidate for one in lineage.cycles()}
    version = next_version(version)
    while version in taken:
        version = next_version(version)
    return version


def write_candidate(
    parent: Package, weights: Weights, told: tuple[CycleRecord, list[RoundRecord], str], folder: Path
) -> Package:
    """Write the package of joined weights."""
    cycle, rounds, version = told
    declared = json.loads(parent.path("package.json").read_bytes())
    network = trained_network(parent)
    put_into(network, weights)
    sites = sorted({site for one in rounds for site in one.sites})
    declared |= {
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": {
            "parent": parent.name, "parent_digest": parent.digest, "round": rounds[-1].round, "sites": len(sites),
        },
    }  # fmt: skip
    note = NOTE.format(
        version=version, parent=parent.name, rounds=rounds[-1].round, cycle=cycle.id, digest=digest_of(weights),
        sites=f"{len(sites)} sites",
    )  # fmt: skip
    card = parent.path("card.md").read_text() + note
    return write_package(network, declared, golden_inputs(parent), card, folder)


def golden_inputs(parent: Package) -> list[Any]:
    """Return the inputs of the parent's golden cases."""
    found = []
    for path in sorted((parent.folder / FOLDER).glob("*.npz")):
        with np.load(path, allow_pickle=False) as case:
            found.append(from_bytes(case["input"], case["low"], case["high"]))
    return found


def sign(folder: Path, data_dir: Path) -> None:
    """Sign a package with the coordinator's key, which is made at first use."""
    if not site_key(data_dir).exists():
        make_key(site_key(data_dir))
    sign_package(folder, read_private_key(site_key(data_dir)))


def pack(folder: Path) -> None:
    """Write the .zip of a package beside it, whole."""
    partial = folder.with_name(f".{folder.name}.zip.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files_in(folder)):
            archive.write(folder / name, name)
    partial.rename(folder.with_name(f"{folder.name}.zip"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))

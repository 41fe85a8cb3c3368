"""The labelled cases of this site that count: not withdrawn, within their time, of nobody who opted out.

Their rows stand in the catalogue, their arrays in data_dir/training/PACKAGE/*.npz: `voxels` (k, j, i), `affine` (4×4,
index to LPS mm), `labels` uint8 (k, j, i). Who is held back is fixed by patient: such a case judges and is never
trained on.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from appliance.catalogue import Catalogue, training
from appliance.catalogue.connection import now
from appliance.catalogue.training import KeptCase
from appliance.log import logger
from appliance.settings import Settings
from appliance.training_set import folder_of, kept_since
from appliance.volume import Volume

if TYPE_CHECKING:
    from models.local_pass import Case
    from models.package import Package


def count_cases(settings: Settings, catalogue: Catalogue, package: str) -> int:
    """Return how many labelled cases of a package there are."""
    return len(_rows(settings, catalogue, package))


def count_new_cases(settings: Settings, catalogue: Catalogue, package: str, since: datetime | None) -> int:
    """Return how many cases to train on were kept since a moment; without one, how many there are."""
    rows = [one for one in _rows(settings, catalogue, package) if not one.held_back]
    return sum(since is None or one.kept_at > since for one in rows)


def training_cases(settings: Settings, catalogue: Catalogue, package: Package) -> list[Case]:
    """Return the cases to train on."""
    return list(_cases(settings, catalogue, package, held_back=False))


def held_back_cases(settings: Settings, catalogue: Catalogue, package: Package) -> list[Case]:
    """Return the cases that judge."""
    return list(_cases(settings, catalogue, package, held_back=True))


def _rows(settings: Settings, catalogue: Catalogue, package: str) -> list[KeptCase]:
    with catalogue.read() as connection:
        return training.live(connection, package, kept_since(settings, now()))


def _cases(settings: Settings, catalogue: Catalogue, package: Package, *, held_back: bool) -> Iterator[Case]:
    """Yield cases as the network of a package sees them; a file that is not the one that was kept is left out."""
    from models.local_pass import case_of

    for row in _rows(settings, catalogue, package.id):
        if bool(row.held_back) != held_back:
            continue
        content = _content(settings, row)
        if hashlib.sha256(content).hexdigest() != row.digest:
            logger().error("case_damaged", case=row.id, package=row.package)
            continue
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            volume = Volume(found["voxels"].astype(np.float32), found["affine"], (), "", "")
            labels = found["labels"]
        yield replace(case_of(volume, labels, package.manifest, row.patient), scanner=row.scanner)


def _content(settings: Settings, row: KeptCase) -> bytes:
    try:
        return (folder_of(settings) / row.path).read_bytes()
    except FileNotFoundError:
        return b""

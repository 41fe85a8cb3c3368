"""The labelled cases of this site: data_dir/training/PACKAGE/*.npz, a case each.

Arrays of a file: `voxels` (k, j, i), `affine` (4×4, index to LPS mm), `labels` uint8 (k, j, i), `patient` (a hash).
Who is held back is fixed by patient: such a case judges and is never trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from appliance.catalogue import Catalogue
from appliance.settings import Settings
from appliance.volume import Volume

if TYPE_CHECKING:
    from models.local_pass import Case
    from models.package import Package


def count_cases(settings: Settings, catalogue: Catalogue, package: str) -> int:  # noqa: ARG001
    """Return how many labelled cases of a package there are."""
    return len(_files(settings, package))


def training_cases(settings: Settings, catalogue: Catalogue, package: Package) -> list[Case]:
    """Return the cases to train on."""
    return list(_cases(settings, catalogue, package, held_back=False))


def held_back_cases(settings: Settings, catalogue: Catalogue, package: Package) -> list[Case]:
    """Return the cases that judge."""
    return list(_cases(settings, catalogue, package, held_back=True))


def _files(settings: Settings, package: str) -> list[Path]:
    return sorted((settings.data_dir / "training" / package).glob("*.npz"))


def _cases(
    settings: Settings, catalogue: Catalogue, package: Package, *, held_back: bool  # noqa: ARG001
) -> Iterator[Case]:  # fmt: skip
    from models.local_pass import case_of, is_held_back

    for path in _files(settings, package.id):
        with np.load(path, allow_pickle=False) as found:
            patient = str(found["patient"])
            if is_held_back(patient, settings.appliance_uid) != held_back:
                continue
            volume = Volume(found["voxels"].astype(np.float32), found["affine"], (), "", "")
            yield case_of(volume, found["labels"], package.manifest, patient)

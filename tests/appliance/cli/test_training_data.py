"""`curie federation data | label-import | opt-out` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

from tests.appliance.cli.in_process import curie


def write_pair(folder: Path, name: str, label: int) -> None:
    image = np.random.default_rng(label).integers(0, 900, (30, 32, 34)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[5:9, 6:9, 7:11] = label
    for part, array in (("images", image), ("labels", labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / part / name)


def test_labels_are_imported_counted_and_forgotten(tmp_path: Path) -> None:
    assert curie("init", str(tmp_path / "home"), cwd=tmp_path).returncode == 0
    home, crops = tmp_path / "home", tmp_path / "crops"
    write_pair(crops, "good.nii.gz", 1)
    write_pair(crops, "strange.nii.gz", 9)
    ran = curie(
        "federation", "label-import", "hippocampus", str(crops), "--author", "Joliot", "--scanner", "Skyra", cwd=home
    )
    assert ran.returncode == 1
    assert len(ran.stderr.splitlines()) == 1
    assert "strange.nii.gz: it holds the label 9" in ran.stderr
    assert "1 cases kept; of 2 files 0 were known and 1 not kept" in ran.stdout
    told = json.loads(curie("federation", "data", "--json", cwd=home).stdout)
    (counted,) = told["cases"]
    assert tuple(counted[name] for name in ("package", "scanner", "source", "cases", "patients")) == (
        "hippocampus", "Skyra", "import", 1, 1,
    )  # fmt: skip
    assert "hippocampus" in curie("federation", "data", cwd=home).stdout
    out = curie("federation", "opt-out", "MRN 4711", "--reason", "asked", "--json", cwd=home)
    hashed = json.loads(out.stdout)["patient"]
    assert out.returncode == 0
    assert "4711" not in out.stdout
    assert len(hashed) == 64
    assert json.loads(curie("federation", "data", "--json", cwd=home).stdout)["opted_out"] == 1
    for code in (0, 3):
        undone = curie("federation", "opt-out", "MRN 4711", "--undo", "--reason", "asked", cwd=home)
        assert undone.returncode == code, undone.stderr

"""The validators and readers of others: dciodvfy, dcentvfy (dicom3tools), dcmqi. The bars are CONTRACT.md's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from appliance.volume import Volume
from dicom_nodes.header import read_header
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.source import UNICODE
from dicom_nodes.values import text
from tests.acceptance.house import absent
from tests.made_up import LabelMap

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def tool(name: str) -> str:
    """Return the path of a tool: of dcmqi beside this Python, of the others on the path."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        absent(f"{name} is not installed")
    return found


def lines(*command: str | Path) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return (done.stdout + done.stderr).splitlines()


def errors(path: Path) -> list[str]:
    return [line for line in lines(tool("dciodvfy"), "-new", path) if line.startswith("Error")]


def values_of(images: Sequence[Path]) -> set[str]:
    """Return every text value of the source."""
    headers = [read_header(path) for path in images]
    return {text(ds, int(raw.tag)) for ds in headers for raw in ds.values()}


def is_of_source(line: str, values: set[str]) -> bool:
    """Tell whether a complaint is about a value that stands in the source."""
    about = re.search(r" = <(.*?)> - ", line)
    return about is not None and about[1] in values


def unicode_copy(path: Path, target: Path) -> Path:
    """Write a copy of an image whose text is in ISO_IR 192, as the results' is."""
    with lenient():
        ds = dcmread(path)
        ds.decode()
        ds.SpecificCharacterSet = UNICODE
        ds.save_as(target)
    return target


def disagreements(images: Sequence[Path], results: Sequence[Path], folder: Path) -> list[str]:
    """Return what dcentvfy says of results beside copies of their images, whose text is made ISO_IR 192."""
    copies = [unicode_copy(path, folder / f"copy-{n}.dcm") for n, path in enumerate(images)]
    said = lines(tool("dcentvfy"), *copies, *results)
    return [line for line in said if "Error" in line and "Different information entities" not in line]


def read_by_dcmqi(segmentation: Path, volume: Volume, folder: Path) -> LabelMap:
    """Return the label map (k, j, i) of a Segmentation as dcmqi reads it, placed in patient space."""
    command = [tool("segimage2itkimage"), "--inputDICOM", segmentation, "--outputDirectory", folder]
    said = lines(*command, "-t", "nifti", "-p", "x", "--mergeSegments")
    image = nibabel.load(folder / "x-1.nii.gz") if (folder / "x-1.nii.gz").exists() else pytest.fail("\n".join(said))
    found = np.asarray(image.dataobj).astype(np.uint8)
    at = np.argwhere(found)
    to_index = np.linalg.inv(volume.affine) @ LPS_TO_RAS @ image.affine
    index = np.c_[at, np.ones(len(at))] @ to_index.T
    assert np.abs(index[:, :3] - np.rint(index[:, :3])).max() < 0.05
    back = np.zeros(volume.shape, np.uint8)
    back[tuple(np.rint(index[:, :3]).astype(int).T)] = found[tuple(at.T)]
    return back

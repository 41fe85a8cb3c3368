"""Pairs of NIfTI files, an image and its labels on one grid, as the Medical Segmentation Decathlon has them.

NIfTI counts (i, j, k) and points to the right, front and head; a Volume counts (k, j, i) in LPS. It must never
resample: labels that lie on another grid are refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from appliance.errors import ResultRejected
from appliance.volume import Affine, Array, Volume
from dicom_nodes.label_reader import Labels

FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))
SUFFIXES = (".nii", ".nii.gz")
MOST_VOXELS = 1 << 30
SAME_GRID = 1e-3  # mm, of two affines' entries
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_nifti(path: Path) -> bool:
    """Tell whether a file is named as NIfTI files are."""
    return path.name.endswith(SUFFIXES)


def pairs_in(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return name → image and labels, of which one may be missing on the disk; nothing where it is no such folder."""
    for images, labels in FOLDERS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            names = sorted({*_names(folder / images), *_names(folder / labels)})
            return {name: (folder / images / name, folder / labels / name) for name in names}
    return {}


def _names(folder: Path) -> Iterator[str]:
    return (one.name for one in folder.iterdir() if is_nifti(one) and not one.name.startswith("."))


def image_of(labels: Path) -> Path | None:
    """Return the image that belongs to a file of labels in such a folder."""
    for images, own in FOLDERS:
        if labels.parent.name == own:
            return labels.parent.parent / images / labels.name
    return None


def read_image(path: Path, series_uid: str) -> Volume:
    """Return an image as a Volume. Raises ResultRejected."""
    array, affine = _read(path)
    if not np.isfinite(array).all():
        raise ResultRejected("the image holds numbers that are not finite")
    small = array.dtype.kind in "iu" and array.min() >= -(1 << 15) and array.max() < 1 << 15
    return Volume(array.astype(np.int16 if small else np.float32), affine, (), series_uid, "")


def read_numbers(path: Path, volume: Volume, numbers: Mapping[int, int]) -> Labels:
    """Return the labels (k, j, i) of a file on the grid of its image; `numbers`: number in the file → label, 0 none.

    Raises ResultRejected for another grid and for a number that is not named.
    """
    array, affine = _read(path)
    if array.shape != volume.shape or np.abs(affine - volume.affine).max() > SAME_GRID:
        raise ResultRejected("its labels lie on another grid than the image")
    labels = np.zeros(array.shape, np.uint8)
    for number in np.unique(array):
        if (number and int(number) not in numbers) or int(number) != number:
            raise ResultRejected(f"it holds the label {number:g}, which is no segment; --map says what it is")
        if number:
            labels[array == number] = numbers[int(number)]
    return labels


def _read(path: Path) -> tuple[Array, Affine]:
    """Return the values (k, j, i) and the affine to LPS mm."""
    import nibabel

    try:
        image: Any = nibabel.load(path)
        if int(np.prod(image.shape)) > MOST_VOXELS or len(image.shape) != 3:
            raise ResultRejected("it is no volume of three axes, or too large")
        array, affine = np.asarray(image.dataobj), np.asarray(image.affine, np.float64)
    except FileNotFoundError:
        raise ResultRejected("there is no file of this name beside it") from None
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        raise ResultRejected("it is no readable NIfTI file") from error
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ResultRejected("it does not say where its voxels lie")
    return np.ascontiguousarray(array.transpose(2, 1, 0)), (TO_LPS @ affine)[:, [2, 1, 0, 3]]

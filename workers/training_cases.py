"""Real studies of which experts outlined something, as plain arrays for the recipes of models/zoo.

    python -m workers.training_cases cine --cases DIR --out cine.npz
    python -m workers.training_cases chest --cases DIR --out chest.npz

Here because recipes compute on voxels and must not read DICOM. What it writes is no patient's identity: pixels, labels
and spacings alone.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from dicom_nodes.volume_reader import read_slice, read_volume

UNKNOWN = -1
MOMENTS = 20  # of each place in the Sunnybrook studies
WIDEST_MUSCLE = 14  # pixels


def cine_case(folder: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Return images (n, columns, rows), labels (1 cavity, 2 muscle, -1 not known) and spacing of a Sunnybrook study.

    Experts outlined two moments; slices of these without an outline hold no cavity, by their convention.
    """
    outlines = {outlined(path): path for path in (folder / "i-contours").glob("*.txt")}
    moments = {number % MOMENTS for number in outlines}
    numbers = sorted(int(path.stem) for path in (folder / "dicom").glob("*.dcm"))
    images, labels, spacing_mm = [], [], 0.0
    for number in (one for one in numbers if one % MOMENTS in moments):
        image, (spacing_mm, _) = read_slice(folder / "dicom" / f"{number}.dcm")
        images.append(image.T.astype(np.float32))
        labels.append(known_labels(outlines.get(number), image.shape).T)
    return {"images": np.stack(images), "labels": np.stack(labels), "spacing_mm": np.array(spacing_mm)}


def outlined(path: Path) -> int:
    """Return the Instance Number of the image that an outline belongs to."""
    number = re.search(r"IM-0001-(\d+)", path.name)
    assert number, path.name
    return int(number[1])


def known_labels(inner: Path | None, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """Return the labels (rows, columns) of a slice; around a cavity whose muscle nobody drew, nothing is known."""
    known = np.zeros(shape, np.int8)
    if inner is None:
        return known
    cavity = filled(inner, shape)
    outer = inner.parents[1] / "o-contours" / inner.name.replace("icontour", "ocontour")
    if outer.exists():
        known[filled(outer, shape)] = 2
    else:
        known[ndimage.binary_dilation(cavity, iterations=WIDEST_MUSCLE)] = UNKNOWN
    known[cavity] = 1
    return known


def chest_case(folder: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Return voxels (k, j, i) in HU and affine (to LPS mm) of one CT series."""
    volume = read_volume(sorted(folder.rglob("*.dcm")))
    return {"voxels": volume.voxels.astype(np.int16), "affine": volume.affine}


def filled(outline: Path, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return the pixels (rows, columns) inside of an outline: a text file of columns and rows."""
    mask = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in np.loadtxt(outline)], fill=1)
    return np.asarray(mask, bool)


def main() -> None:
    """Write the cases of one kind."""
    parser = argparse.ArgumentParser(prog="python -m workers.training_cases", description=__doc__)
    parser.add_argument("kind", choices=["cine", "chest"])
    parser.add_argument("--cases", type=Path, required=True, help="cine: folder of the studies; chest: of one series")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    given = parser.parse_args()
    arrays: dict[str, Any] = chest_case(given.cases) if given.kind == "chest" else {}
    for folder in sorted(one for one in given.cases.iterdir() if (one / "i-contours").is_dir()):
        arrays |= {f"{folder.name}/{name}": array for name, array in cine_case(folder).items()}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.out, **arrays)


if __name__ == "__main__":
    main()

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

from dicom_nodes.volume_reader import read_slice, read_volume

UNKNOWN = -1


def cine_case(folder: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Return images (n, columns, rows), labels (1 cavity, 2 muscle, -1 not known) and spacing of a Sunnybrook study."""
    images, labels, spacing_mm = [], [], 0.0
    for outline in sorted((folder / "i-contours").glob("*.txt")):
        number = re.search(r"IM-0001-(\d+)", outline.name)
        assert number, outline.name
        image, (spacing_mm, _) = read_slice(folder / "dicom" / f"{int(number[1])}.dcm")
        outer = folder / "o-contours" / outline.name.replace("icontour", "ocontour")
        known = np.zeros(image.shape, np.int8)
        if outer.exists():
            known[filled(outer, image.shape)] = 2
        else:
            known[:] = UNKNOWN
        known[filled(outline, image.shape)] = 1
        images.append(image.T.astype(np.float32))
        labels.append(known.T)
    return {"images": np.stack(images), "labels": np.stack(labels), "spacing_mm": np.array(spacing_mm)}


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

"""Which structure of a package each segment of somebody's label is, and what is cut out of a volume as a case.

Pure: values and arrays in, values and arrays out. It must never guess a side or a structure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from appliance.errors import ResultRejected
from appliance.finding import LATERALITY, name_in
from appliance.volume import Volume
from dicom_nodes.label_objects import Coded, Structure
from dicom_nodes.label_reader import Labels
from models.declaration import Declaration

MARGIN_MM = 12.0  # kept around the labels of a region


@dataclass(frozen=True)
class Wanted:
    """One structure of a package, as a label map of a result numbers it."""

    label: int  # in several regions: region × number of segments + segment number
    name: str
    code: Coded
    laterality: str  # code value, or nothing
    region: str = ""


@dataclass(frozen=True)
class Piece:
    """What is kept as one case."""

    region: str
    volume: Volume
    labels: Labels  # (k, j, i), segment numbers of the package


def why_not_trainable(declared: Declaration) -> str:
    """Return why no case can be kept for a package, nothing where one can."""
    if declared.outputs.kind != "segmentation":
        return f"{declared.id} makes no plain segmentation, so it is not trained here"
    if len(declared.inputs) > 1:
        return f"{declared.id} reads several series at once, so it is not trained here"
    if declared.outputs.activation != "softmax":
        return f"{declared.id} has structures within each other, so it is not trained here"
    return ""


def regions_of(declared: Declaration, volume: Volume) -> tuple[str, ...]:
    """Return the regions in which a package looks in this volume, "" where it takes the whole."""
    plan = declared.locator
    return tuple(one.name for one in plan.regions) if plan and plan.is_needed(volume) else ("",)


def wanted(declared: Declaration, regions: Sequence[str]) -> tuple[Wanted, ...]:
    """Return the structures of a package, in each of its regions."""
    outputs = declared.outputs
    assert outputs.kind == "segmentation"  # why_not_trainable said so
    found = []
    for n, region in enumerate(regions):
        for one in outputs.segments:
            side = LATERALITY.get(region or one.laterality or "")
            label, code = n * len(outputs.segments) + one.number, (one.type.value, one.type.scheme)
            found.append(Wanted(label, name_in(region, one.name), code, side.value if side else "", region))
    return tuple(found)


def labels_of(
    structures: Sequence[Structure], known: Sequence[Wanted], tracked: Mapping[str, int] | None = None
) -> dict[int, int]:
    """Return number → label of the structures that are the package's; others are left out.

    By tracking UID (`tracked`: UID → label), else by name, else by code and side where these name a single structure.
    """
    found = {}
    for one in structures:
        label = (tracked or {}).get(one.tracking_uid) or _by_name(one, known) or _by_code(one, known)
        if label and one.number > 0:
            found[one.number] = label
    return found


def _by_name(one: Structure, known: Sequence[Wanted]) -> int:
    names = {_plain(each.name): each.label for each in known}
    return names.get(_plain(one.name), 0)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _by_code(one: Structure, known: Sequence[Wanted]) -> int:
    same = [each.label for each in known if each.code == one.code and each.laterality == one.laterality]
    return same[0] if len(same) == 1 else 0


def check_complete(there: Collection[int], needed: Collection[Wanted]) -> None:
    """Raise ResultRejected unless each structure is there, be it empty: what is not told of may be anything."""
    missing = [one.name for one in needed if one.label not in there]
    if missing:
        raise ResultRejected(f"it does not say where {missing[0]} is ({len(missing)} of {len(needed)} are not in it)")


def complete_regions(there: Collection[int], known: Sequence[Wanted]) -> tuple[Wanted, ...]:
    """Return the structures of the regions of which any is there. Raises ResultRejected where none is at all."""
    regions = {one.region for one in known if one.label in there}
    if not regions:
        raise ResultRejected("none of its structures is one of the package's, by name or code")
    return tuple(one for one in known if one.region in regions)


def pieces(volume: Volume, labels: Labels, declared: Declaration, regions: Sequence[str]) -> Iterator[Piece]:
    """Yield the whole volume, or around the labels of each region what a package with a locator sees there.

    Nothing where there is no label: nobody knows whether a structure is not there or was not drawn.
    """
    assert declared.outputs.kind == "segmentation"
    if regions == ("",):
        if labels.any():
            yield Piece("", volume, labels)
        return
    count = len(declared.outputs.segments)
    for n, region in enumerate(regions):
        inside = (labels > n * count) & (labels <= (n + 1) * count)
        if inside.any():
            yield _cut(region, volume, np.where(inside, labels - n * count, 0).astype(np.uint8))


def _cut(region: str, volume: Volume, labels: Labels) -> Piece:
    """Return the part of a volume that holds all labels, and a margin."""
    at = np.argwhere(labels)
    margins = [round(MARGIN_MM / spacing) for spacing in volume.spacing_mm]
    first = np.maximum(at.min(axis=0) - margins, 0)
    last = np.minimum(at.max(axis=0) + margins + 1, volume.shape)
    box = tuple(slice(int(low), int(high)) for low, high in zip(first, last, strict=True))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    part = replace(volume, voxels=np.ascontiguousarray(volume.voxels[box]), affine=affine, frames=())
    return Piece(region, part, np.ascontiguousarray(labels[box]))

"""Does an engine compute what the package says? Its answers on the golden cases against those that are stored.

It must never pass an answer that holds NaN or infinity, and never read a golden case that needs unpickling.
golden/*.npz: `input` uint8 (channels, axes…), 0 standing for `low` and 255 for `high`, each (channels,) float32;
`output` float32, the reference's raw answer: (channels, axes / STRIDE …) of a label map's logits, (channels,) of a
classifier or regression; `labels` uint8 (axes…) of a label map. Inputs are synthetic images, no patient's.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from appliance.errors import PackageRefused
from models.deciding import joined, logit
from models.declaration import Tolerance
from models.engines import Engine
from models.outputs import Classification, Outputs, Regression
from models.package import Package
from models.reading import Labels
from models.transforms import Floats

FOLDER = "golden"
STRIDE = 4  # of stored logits, along each axis
ENOUGH_VOXELS = 1000  # a segment smaller than this is not compared by Dice
MAX_CASE_BYTES = 256 * 2**20  # of all arrays of a golden case
DTYPES = {"input": np.uint8, "low": np.float32, "high": np.float32, "output": np.float32, "labels": np.uint8}
UNREADABLE = (
    OSError, KeyError, ValueError, TypeError, EOFError, MemoryError, RuntimeError, NotImplementedError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip  # all that numpy and zipfile were seen to raise, or may
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class GoldenCase:
    """One input of the network and what the reference made of it."""

    name: str
    image: Floats  # (channels, axes…)
    output: Floats  # (channels, axes / STRIDE …) or (channels,)
    labels: Labels | None  # (axes…)


@dataclass(frozen=True)
class Agreement:
    """How far an engine's answer on one golden case is from the reference's; no `reason` where it is near enough."""

    case: str
    largest_of_range: float  # largest difference of raw outputs, as a share of their range
    flips: float | None = None  # share of voxels labelled otherwise
    dice: Mapping[str, float] | None = None  # by segment number
    probability: float | None = None  # largest difference
    reason: str = ""


def golden_cases(package: Package) -> list[GoldenCase]:
    """Return the package's golden cases; PackageRefused if there is none or one cannot be read."""
    paths = sorted((package.folder / FOLDER).glob("*.npz"))
    if not paths:
        raise PackageRefused(f"{FOLDER}/: holds no golden case, so no engine can be judged")
    return [golden_case(path) for path in paths]


def golden_case(path: Path) -> GoldenCase:
    """Return one golden case; PackageRefused if it cannot be read."""
    name = f"{FOLDER}/{path.name}"
    try:
        part = stored_arrays(path)
        check_arrays(part)
    except UNREADABLE as error:
        why = next(iter(str(error).splitlines()), "")[:200]
        raise PackageRefused(f"{name}: not readable ({type(error).__name__}: {why})") from error
    image = from_bytes(part["input"], part["low"], part["high"])
    return GoldenCase(path.stem, image, part["output"], part.get("labels"))


def stored_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a golden case by name; ValueError before memory is taken for more than it may hold."""
    with zipfile.ZipFile(path) as archive:
        members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
        if len(members) != len(archive.infolist()) or not members.keys() <= DTYPES.keys():
            raise ValueError(f"holds other arrays than {', '.join(DTYPES)}, each once")
        if sum(one.file_size for one in members.values()) > MAX_CASE_BYTES:
            raise ValueError(f"its arrays are larger than {MAX_CASE_BYTES} bytes together")
        return {name: stored_array(archive, one) for name, one in members.items()}


def stored_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """Return one array; ValueError where its header announces more than there is."""
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{member.filename} is no array of format 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"{member.filename} announces more than it holds")
    with archive.open(member) as file:
        found: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return found


def check_arrays(part: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise ValueError unless the arrays have their types and fit each other."""
    for name, found in part.items():
        if found.dtype != DTYPES[name]:
            raise ValueError(f"{name} is {found.dtype}, not {np.dtype(DTYPES[name])}")
    axes, channels = part["input"].ndim - 1, part["input"].shape[:1]
    if axes not in (2, 3) or not part["input"].size or not part["output"].size:
        raise ValueError("input is not (channels, axes…) of an image, or something is empty")
    if part["low"].shape != channels or part["high"].shape != channels:
        raise ValueError("low and high are not one number for each channel of the input")
    if part["output"].ndim not in (1, 1 + axes) or ("labels" in part and part["labels"].ndim != axes):
        raise ValueError("output or labels do not have the axes of the input")


def from_bytes(stored: npt.NDArray[np.uint8], low: Floats, high: Floats) -> Floats:
    """Return the image (channels, axes…) that 256 steps between `low` and `high` of each channel stand for."""
    steps = (-1, *(1,) * (stored.ndim - 1))
    share = stored.astype(np.float32) / np.float32(255)
    return np.asarray(low.reshape(steps) + share * (high - low).reshape(steps), np.float32)


def agreements(engine: Engine, package: Package) -> list[Agreement]:
    """Return how near `engine` comes to each golden case of the package."""
    declared = package.manifest
    limits = declared.parity.of(engine.precision)
    found = []
    for golden in golden_cases(package):
        batch = torch.from_numpy(golden.image)[None].to(engine.device)
        answer = engine.run(batch)[0].float().cpu().numpy()
        found.append(compared(answer, golden, declared.outputs, limits))
    return found


def compared(answer: Floats, golden: GoldenCase, outputs: Outputs, limits: Tolerance) -> Agreement:
    """Return the figures of one answer (channels, axes…), and the first tolerance that it breaks."""
    thinned = answer[(slice(None), *(slice(None, None, STRIDE),) * (answer.ndim - 1))]
    if thinned.shape != golden.output.shape:
        return Agreement(golden.name, np.inf, reason=f"answers with shape {answer.shape}")
    if not np.isfinite(answer).all():
        return Agreement(golden.name, np.inf, reason="answers the golden case with NaN or infinity")
    width = float(np.ptp(golden.output)) or 1.0
    largest = float(np.abs(thinned - golden.output).max()) / width
    reason = ""
    if not largest <= limits.max_abs_of_range:
        reason = (
            f"differs from the golden output by {largest:.2e} of its range, allowed are {limits.max_abs_of_range:.2e}"
        )
    if isinstance(outputs, Regression):
        return Agreement(golden.name, largest, reason=reason)
    if isinstance(outputs, Classification):
        return classified(answer, golden, outputs, limits, Agreement(golden.name, largest, reason=reason))
    return labelled(answer, golden, outputs, limits, Agreement(golden.name, largest, reason=reason))


def classified(
    answer: Floats, golden: GoldenCase, outputs: Classification, limits: Tolerance, so_far: Agreement
) -> Agreement:
    """Return the agreement with probabilities compared, and the decision outside of the guard band."""
    ours, theirs = (joined(torch.from_numpy(one)[None], outputs) for one in (answer, golden.output))
    difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    a, b = ours[outputs.positive], theirs[outputs.positive]
    reason = so_far.reason
    if not reason and difference > limits.max_probability:
        reason = f"differs by {difference:.4f} in a probability, allowed are {limits.max_probability}"
    near = abs(b - outputs.threshold) <= outputs.guard_band
    if not reason and (a >= outputs.threshold) != (b >= outputs.threshold) and not near:
        reason = "decides the golden case otherwise"
    return replace(so_far, probability=difference, reason=reason)


def labelled(answer: Floats, golden: GoldenCase, outputs: Outputs, limits: Tolerance, so_far: Agreement) -> Agreement:
    """Return the agreement with labels compared: share of flips, and Dice of each segment that is large enough."""
    labels = labels_of(answer, outputs)
    if golden.labels is None or labels.shape != golden.labels.shape:
        return replace(so_far, reason=f"answers with shape {answer.shape}")
    flips = float((labels != golden.labels).mean())
    counts = np.bincount(golden.labels.ravel(), minlength=2)
    dice = {
        str(number): dice_of(labels == number, golden.labels == number)
        for number in range(1, len(counts))
        if counts[number] >= ENOUGH_VOXELS
    }
    reason = so_far.reason
    if not reason and flips > limits.max_flips:
        reason = f"labels {flips:.2e} of the golden voxels otherwise, allowed are {limits.max_flips:.2e}"
    worst = min(dice.values(), default=1.0)
    if not reason and worst < limits.min_dice:
        reason = f"has Dice {worst:.5f} on a golden segment, at least {limits.min_dice} is asked"
    return replace(so_far, flips=flips, dice=dice, reason=reason)


def dice_of(one: Mask, two: Mask) -> float:
    """Return the Dice coefficient of two masks, 1 if both are empty."""
    total = int(one.sum()) + int(two.sum())
    return 2.0 * int((one & two).sum()) / total if total else 1.0


def labels_of(answer: Floats, outputs: Outputs) -> Labels:
    """Return the labels (axes…) of raw outputs (channels, axes…), as `outputs` decides them."""
    if getattr(outputs, "activation", "softmax") == "softmax":
        return np.asarray(answer.argmax(0), np.uint8)
    least = logit(outputs.threshold)  # type: ignore[union-attr]
    labels = np.zeros(answer.shape[1:], np.uint8)
    for number, one in enumerate(answer, start=1):
        labels[one > least] = number
    return labels


def as_record(found: list[Agreement]) -> list[dict[str, Any]]:
    """Return the agreements as they are stored and shown."""
    return [asdict(one) for one in found]

"""Federated rounds in numbers: what an update may be, who is believed, and how updates become new weights.

Bytes and arrays in, bytes and arrays out: it must never open a connection or a file. An update is the difference of a
site's trained weights to the base it was given, as safetensors; nothing else is ever parsed, and no pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from appliance.errors import RoundRefused

Floats = npt.NDArray[np.float32]
Weights = Mapping[str, Floats]  # name of the parameter → values
Halves = Mapping[str, npt.NDArray[np.float16]]
Precision = Literal["f16", "int8"]

FORMAT = "curie-update-1"
LONGEST_HEADER = 4 * 1024 * 1024
SPARE_BYTES = 64 * 1024  # of a message, beyond its tensors
SCALE = "|scale"  # of an int8 tensor, beside it
SLACK = 1.01  # on the norm, for halves on the wire


@dataclass(frozen=True)
class Rules:
    """What an update must keep to be counted."""

    clip_norm: float = 5.0  # L2 norm of a whole update; sites clip to it
    norm_factor: float = 4.0  # times the median norm of the others, from three updates on
    least_cosine: float = -0.3  # to the mean of the others, from four updates on
    min_sites: int = 2  # accepted updates, else the base stays
    aggregation: Literal["weighted-mean", "trimmed-mean", "momentum"] = "weighted-mean"
    trim: float = 0.25  # share of the sites left out at either end, coordinate by coordinate
    momentum: float = 0.5  # share of the last step that goes on


@dataclass(frozen=True)
class Question:
    """What an update answers: it belongs to one round, one base and one site, and is worth nothing elsewhere."""

    cycle: str
    round: int
    base: str  # digest of the weights
    site: str


@dataclass(frozen=True)
class Update:
    """One site's answer."""

    question: Question
    deltas: Weights
    cases: int  # it was trained on
    metrics: Mapping[str, float] = field(default_factory=dict)  # loss and Dice before and after, epsilon spent

    @property
    def site(self) -> str:
        """The site that made it."""
        return self.question.site

    @cached_property
    def norm(self) -> float:
        """L2 norm over all tensors."""
        return norm_of(self.deltas)


def norm_of(deltas: Weights) -> float:
    """Return the L2 norm over all tensors."""
    return float(np.sqrt(sum(float(np.square(one, dtype=np.float64).sum()) for one in deltas.values())))


def digest_of(weights: Weights) -> str:
    """Return the BLAKE2b-256 of weights: names in order, shapes and float32 values."""
    said = hashlib.blake2b(digest_size=32)
    for name in sorted(weights):
        one = np.ascontiguousarray(weights[name], "<f4")
        said.update(f"{name}|{one.shape}|".encode())
        said.update(one.data)
    return said.hexdigest()


def difference(trained: Weights, base: Weights) -> dict[str, Floats]:
    """Return `trained` − `base`, for the names of `base`."""
    return {name: (trained[name] - base[name]).astype(np.float32) for name in base}


def clipped(deltas: Weights, limit: float) -> dict[str, Floats]:
    """Return the deltas, shortened to the norm `limit` where they are longer."""
    norm = norm_of(deltas)
    factor = np.float32(min(1.0, limit / norm) if norm > 0 else 1.0)
    return {name: one * factor for name, one in deltas.items()}


def as_halves(weights: Weights) -> Halves:
    """Return weights as they go to the sites: rounded to halves."""
    return {name: one.astype(np.float16) for name, one in weights.items()}


def from_halves(halves: Halves) -> dict[str, Floats]:
    """Return weights as the sites read them."""
    return {name: one.astype(np.float32) for name, one in halves.items()}


def encode_base(halves: Halves, about: Mapping[str, Any]) -> bytes:
    """Return weights as safetensors of halves, with a record of JSON beside them."""
    return save(dict(halves), metadata={"about": json.dumps(about, sort_keys=True)})


def to_bytes(weights: Weights) -> bytes:
    """Return weights as they are kept: safetensors of float32."""
    return save({name: np.ascontiguousarray(one, np.float32) for name, one in weights.items()})


def from_bytes(content: bytes) -> dict[str, Floats]:
    """Return the weights with fractions of safetensors bytes, as float32. Raises RoundRefused."""
    tensors, _ = _read(content, len(content))
    return {name: one.astype(np.float32) for name, one in tensors.items() if np.issubdtype(one.dtype, np.floating)}


def decode_base(content: bytes, largest: int) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Return weights and record of a base, as float32. Raises RoundRefused."""
    tensors, told = _read(content, largest)
    try:
        about = json.loads(told["about"])
    except (KeyError, ValueError):
        raise RoundRefused("the base says nothing about itself") from None
    return from_halves(tensors), about


def encode(update: Update, precision: Precision = "f16") -> bytes:
    """Return an update as it leaves the site."""
    told = {
        "format": FORMAT,
        "question": json.dumps(asdict(update.question), sort_keys=True),
        "cases": str(update.cases),
        "metrics": json.dumps(dict(sorted(update.metrics.items()))),
        "precision": precision,
    }
    tensors: dict[str, Any] = {}
    for name, one in update.deltas.items():
        if precision == "f16":
            tensors[name] = one.astype(np.float16)
        else:
            scale = np.float32(max(float(np.abs(one).max(initial=0.0)), 1e-12) / 127)
            tensors[name] = np.clip(np.rint(one / scale), -127, 127).astype(np.int8)
            tensors[name + SCALE] = scale.reshape(1)
    return save(tensors, metadata=told)


def left_behind(update: Update, content: bytes) -> dict[str, Floats]:
    """Return what the encoding lost, for the site to add to its next update (error feedback)."""
    tensors, told = _read(content, len(content))
    sent = _deltas(tensors, told["precision"])
    return {name: update.deltas[name] - sent[name] for name in update.deltas}


def decode(content: bytes, question: Question, base: Weights) -> Update:
    """Return a site's update, if it answers this question and fits the base. Raises RoundRefused with the reason."""
    largest = sum(one.nbytes for one in base.values()) + SPARE_BYTES + 200 * len(base)
    tensors, told = _read(content, largest)
    if told.get("format") != FORMAT or told.get("precision") not in ("f16", "int8"):
        raise RoundRefused("it is no update of ours")
    try:
        answered = Question(**json.loads(told["question"]))
        cases, metrics = int(told["cases"]), json.loads(told["metrics"])
    except (KeyError, TypeError, ValueError):
        raise RoundRefused("its record cannot be read") from None
    if answered != question:
        raise RoundRefused(f"it answers another question ({_other(answered, question)})")
    if not 0 < cases < 10_000_000:
        raise RoundRefused(f"it says that it was trained on {cases} cases")
    if not isinstance(metrics, dict) or not all(_is_metric(*one) for one in metrics.items()):
        raise RoundRefused("its metrics are no finite numbers")
    _check_names(tensors, told["precision"], base)
    return Update(question, _deltas(tensors, told["precision"]), cases, metrics)


def _is_metric(name: object, value: object) -> bool:
    return isinstance(name, str) and len(name) <= 64 and isinstance(value, int | float) and bool(np.isfinite(value))


def _other(answered: Question, asked: Question) -> str:
    differing = [name for name, value in asdict(asked).items() if getattr(answered, name) != value]
    return "another " + ", ".join(differing)


def _read(content: bytes, largest: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return tensors and metadata of safetensors bytes. Raises RoundRefused."""
    if len(content) > largest:
        raise RoundRefused(f"it has {len(content)} bytes, {largest} is the most that can be right")
    try:
        (length,) = struct.unpack("<Q", content[:8])
        if length > LONGEST_HEADER:
            raise ValueError("a header without end")
        told = json.loads(content[8 : 8 + length]).get("__metadata__", {})
        return load(content), told
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, struct.error, UnicodeDecodeError):
        raise RoundRefused("it is not safetensors") from None


def _check_names(tensors: Mapping[str, Any], precision: str, base: Weights) -> None:
    """Raise RoundRefused unless names, shapes and types are the base's, and every number is finite."""
    dtype = np.float16 if precision == "f16" else np.int8
    expected = {name: (one.shape, np.dtype(dtype)) for name, one in base.items()}
    if precision == "int8":
        expected |= {name + SCALE: ((1,), np.dtype(np.float32)) for name in base}
    if unknown := sorted(set(tensors) - set(expected)):
        raise RoundRefused(f"it holds {unknown[0]!r}, which the model does not")
    if missing := sorted(set(expected) - set(tensors)):
        raise RoundRefused(f"it lacks {missing[0]!r}")
    for name, (shape, kind) in expected.items():
        if tensors[name].shape != shape:
            raise RoundRefused(f"{name!r} has shape {tensors[name].shape}, the model's is {shape}")
        if tensors[name].dtype != kind:
            raise RoundRefused(f"{name!r} is {tensors[name].dtype}, not {kind}")
        if not np.isfinite(tensors[name]).all():
            raise RoundRefused(f"{name!r} holds NaN or infinity")


def _deltas(tensors: Mapping[str, Any], precision: str) -> dict[str, Floats]:
    if precision == "f16":
        return from_halves(tensors)
    names = [name for name in tensors if not name.endswith(SCALE)]
    return {name: tensors[name].astype(np.float32) * tensors[name + SCALE][0] for name in names}


def believed(updates: Sequence[Update], rules: Rules) -> tuple[list[Update], dict[str, str]]:
    """Return the updates that count, and of each other the site and the reason.

    Norm first, against the clip and then against the others; direction last, among those that are left.
    """
    refused: dict[str, str] = {}
    for one in updates:
        if one.norm > rules.clip_norm * SLACK:
            refused[one.site] = f"its norm is {one.norm:.3g}, sites clip to {rules.clip_norm:g}"
    left = [one for one in updates if one.site not in refused]
    if len(left) >= 3:
        for one in left:
            usual = float(np.median([other.norm for other in left if other is not one]))
            if one.norm > rules.norm_factor * usual:
                refused[one.site] = f"its norm is {one.norm:.3g}, the others' {usual:.3g}"
    left = [one for one in left if one.site not in refused]
    if len(left) >= 4:
        flat = {one.site: _flat(one.deltas) for one in left}
        for one in left:
            others = np.mean([flat[other.site] for other in left if other is not one], axis=0)
            cosine = _cosine(flat[one.site], others)
            if cosine < rules.least_cosine:
                refused[one.site] = f"it points away from the others (cosine {cosine:.2f})"
    return [one for one in left if one.site not in refused], refused


def _flat(deltas: Weights) -> Floats:
    return np.concatenate([deltas[name].ravel() for name in sorted(deltas)])


def _cosine(one: Floats, other: Floats) -> float:
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length > 0 else 0.0


@dataclass(frozen=True)
class Joined:
    """New weights, and the step that led to them: with momentum it goes into the next round."""

    weights: dict[str, Floats]
    step: dict[str, Floats]


def join(base: Weights, updates: Sequence[Update], rules: Rules, last_step: Weights | None = None) -> Joined:
    """Return the base moved by the joined updates. Raises RoundRefused where too few count."""
    if len(updates) < rules.min_sites:
        raise RoundRefused(f"{len(updates)} updates count, {rules.min_sites} are needed")
    joining = trimmed_mean if rules.aggregation == "trimmed-mean" else weighted_mean
    step = joining(updates, rules)
    if rules.aggregation == "momentum" and last_step:
        step = {name: one + np.float32(rules.momentum) * last_step[name] for name, one in step.items()}
    return Joined({name: (one + step[name]).astype(np.float32) for name, one in base.items()}, step)


def weighted_mean(updates: Sequence[Update], rules: Rules) -> dict[str, Floats]:  # noqa: ARG001 - one signature
    """Return the mean of the updates, each by its number of cases."""
    total = sum(one.cases for one in updates)
    shares = [np.float32(one.cases / total) for one in updates]
    return {
        name: np.sum([share * one.deltas[name] for share, one in zip(shares, updates, strict=True)], axis=0)
        for name in updates[0].deltas
    }


def trimmed_mean(updates: Sequence[Update], rules: Rules) -> dict[str, Floats]:
    """Return the mean of each coordinate without its largest and smallest values; cases do not count."""
    cut = min(int(np.ceil(rules.trim * len(updates))), (len(updates) - 1) // 2)
    return {
        name: np.sort(np.stack([one.deltas[name] for one in updates]), axis=0)[cut : len(updates) - cut]
        .mean(axis=0)
        .astype(np.float32)
        for name in updates[0].deltas
    }

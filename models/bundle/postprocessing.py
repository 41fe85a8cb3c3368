"""A bundle's inferer and postprocessing → how a package runs its network and decides, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.bundle.arguments import Arguments
from models.bundle.preprocessing import FILES, Prepared
from models.bundle.reading import BACK_REFERENCE, Component, refused


@dataclass
class Decided:
    """What was understood so far of the steps after the network."""

    activation: str = ""  # "softmax" or "sigmoid"
    threshold: float | None = None
    argmax: bool = False
    method: str = ""  # how labels come to the source grid; "" where the bundle leaves them on the network's
    cleaning: list[dict[str, Any]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def decided(steps: Sequence[Component], segments: int) -> Decided:
    """Return what a bundle's postprocessing becomes for a label map of `segments`, or for classes (0)."""
    found = Decided()
    for step in steps:
        arguments = Arguments(step)
        if step.name not in STEPS:
            raise arguments.wrong(f"is not a transform that can be imported; those are {', '.join(sorted(STEPS))}")
        if arguments.take("keys", "pred") not in ("pred", ["pred"]):
            raise arguments.wrong('works on other keys than "pred"', "keys")
        STEPS[step.name](arguments, found, segments)
        arguments.done()
    sigmoid = found.activation == "sigmoid" and not found.argmax
    if found.threshold is not None and not sigmoid:
        last = Arguments(steps[-1])
        raise last.wrong("a threshold has a meaning after a sigmoid only")
    found.activation = "sigmoid" if sigmoid else "softmax"
    if segments and not (found.argmax or found.threshold is not None):
        raise refused("postprocessing", "decides nothing; an AsDiscreted with argmax or a threshold is needed")
    if segments and not found.method:
        found.method = "linear_logits"
        found.differences.append(
            "the bundle leaves its answer on the network's grid, a package brings it to the source's"
        )
    return found


def nothing(step: Arguments, found: Decided, segments: int) -> None:  # noqa: ARG001
    """Converting and saving change no value."""
    step.pass_over(*FILES)


def activation(step: Arguments, found: Decided, segments: int) -> None:  # noqa: ARG001
    """Activationsd."""
    step.pass_over("allow_missing_keys")
    step.expect("other", None, default=None)
    sigmoid, softmax = step.flag("sigmoid", False), step.flag("softmax", False)
    if sigmoid and softmax:
        raise step.wrong("sigmoid and softmax exclude each other")
    found.activation = "sigmoid" if sigmoid else "softmax" if softmax else found.activation


def discrete(step: Arguments, found: Decided, segments: int) -> None:  # noqa: ARG001
    """AsDiscreted: the largest class, or every region above a threshold."""
    step.pass_over("allow_missing_keys")
    step.expect("to_onehot", None, default=None)
    step.expect("rounding", None, default=None)
    found.argmax = step.flag("argmax", False)
    if step.component.arguments.get("threshold") is not None:
        found.threshold = step.number("threshold")
        if not 0 < found.threshold < 1 or found.argmax:
            raise step.wrong("is not a share between 0 and 1, without argmax", "threshold")
    step.pass_over("threshold")


def inverted(step: Arguments, found: Decided, segments: int) -> None:
    """Invertd: back to the source's grid; probabilities linearly, or labels by the nearest."""
    step.pass_over("allow_missing_keys", "meta_keys", "orig_meta_keys", "meta_key_postfix", "to_tensor", "device")
    step.expect("transform", BACK_REFERENCE["Invertd", "transform"], default=None)
    step.expect("orig_keys", "image", default="image")
    step.expect("post_func", None, default=None)
    nearest = step.flag("nearest_interp", True)
    settled = found.argmax or found.threshold is not None
    if settled and not nearest:
        raise step.wrong("would interpolate labels linearly", "nearest_interp")
    found.method = "nearest" if settled else "linear_logits"
    if not segments:
        return
    if not settled and nearest:
        found.differences.append(
            "the bundle takes the nearest probabilities at the source's grid, a package interpolates"
        )
    if not settled and not nearest:
        found.differences.append("the bundle interpolates probabilities on the way back, a package the logits before")


def largest(step: Arguments, found: Decided, segments: int) -> None:
    """KeepLargestConnectedComponentd: the largest part of each label, or of all together."""
    step.pass_over("allow_missing_keys")
    step.expect("is_onehot", None, False, default=None)
    step.expect("connectivity", None, 3, default=None)
    step.expect("num_components", 1, default=1)
    labels = known(step, step.labels("applied_labels"), segments)
    groups = [[one] for one in labels] if step.flag("independent", True) else [labels]
    found.cleaning += [{"op": "largest_component", "segments": group} for group in groups]
    early(step, found)


def filled(step: Arguments, found: Decided, segments: int) -> None:
    """FillHolesd."""
    step.pass_over("allow_missing_keys")
    if step.component.arguments.get("connectivity") is None:
        found.differences.append("FillHolesd sees holes across edges and corners too, a package across faces only")
    step.expect("connectivity", None, 1, default=None)
    found.cleaning.append({"op": "fill_holes", "segments": known(step, step.labels("applied_labels"), segments)})
    early(step, found)


def known(step: Arguments, labels: list[int] | None, segments: int) -> list[int]:
    """Return the labels a step cleans, all of them where it names none."""
    found = list(range(1, segments + 1)) if labels is None else labels
    if not found or max(found) > segments:
        raise step.wrong(f"names labels beyond the {segments} that there are", "applied_labels")
    return found


def early(step: Arguments, found: Decided) -> None:
    """Refuse cleaning before labels are decided; note that it comes after the way back here."""
    if not found.argmax:
        raise step.wrong("can be imported only after AsDiscreted with argmax")
    if found.method in ("", "nearest"):
        note = "a package cleans labels on the source's grid, after the way back"
        found.differences += [] if note in found.differences else [note]


STEPS: Mapping[str, Callable[[Arguments, Decided, int], None]] = {
    "EnsureTyped": nothing,
    "ToTensord": nothing,
    "SaveImaged": nothing,
    "Activationsd": activation,
    "AsDiscreted": discrete,
    "Invertd": inverted,
    "KeepLargestConnectedComponentd": largest,
    "FillHolesd": filled,
}


def inference(inferer: Component, prepared: Prepared) -> tuple[dict[str, Any], list[str]]:
    """Return the inference of package.json, and how it differs from the bundle's inferer."""
    step = Arguments(inferer)
    differences: list[str] = []
    if inferer.name == "SimpleInferer":
        plan = simple(step, prepared)
    elif inferer.name == "SlidingWindowInferer":
        plan, differences = windows(step, prepared)
    else:
        raise step.wrong("is not an inferer that can be imported; those are SlidingWindowInferer, SimpleInferer")
    step.done()
    return plan, differences


def simple(step: Arguments, prepared: Prepared) -> dict[str, Any]:
    """Return the plan of a network that sees the whole image at once."""
    if prepared.size is None:
        raise step.wrong("sees images of any size; a package needs one size: add a Resized to preprocessing")
    if prepared.dimensions == 2:
        return {"mode": "slices", "roi": prepared.size[:2], "overlap": 0.0, "blend": "constant"}
    return {"mode": "whole", "roi": prepared.size}


def windows(step: Arguments, prepared: Prepared) -> tuple[dict[str, Any], list[str]]:
    """Return the plan of a network that is moved over the image."""
    step.pass_over(
        "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh", "buffer_steps", "buffer_dim"
    )
    step.expect("sigma_scale", 0.125, default=0.125)
    step.expect("padding_mode", "constant", default="constant")
    step.expect("with_coord", False, default=False)
    step.number("cval", 0.0)
    roi = [int(one) for one in step.numbers("roi_size", prepared.dimensions)]
    if any(not 1 <= one <= 1024 for one in roi):
        raise step.wrong("is not from 1 to 1024 along each axis", "roi_size")
    blend = step.take("mode", "constant")
    if blend not in ("constant", "gaussian"):
        raise step.wrong("is neither constant nor gaussian", "mode")
    overlap, batch = step.number("overlap", 0.25), int(step.number("sw_batch_size", 1))
    mode = "slices" if prepared.dimensions == 2 else "sliding_window"
    plan = {"mode": mode, "roi": roi, "overlap": overlap, "blend": blend, "batch": max(1, min(batch, 64))}
    return plan, ["an image smaller than the window is padded with 0 by the bundle, with its lowest value by a package"]

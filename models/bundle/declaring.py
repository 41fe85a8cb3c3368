"""A bundle → the content of package.json. It must never state what neither the bundle nor a person said."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from appliance.errors import SettingsError
from models.bundle import names
from models.bundle.postprocessing import Decided, decided, inference
from models.bundle.preprocessing import Prepared, prepared
from models.bundle.reading import METADATA, Bundle, Component, refused
from models.monai_networks import NETWORKS, ORDER

TARGETS = {allowed.target: name for name, allowed in NETWORKS.items()}
CLASSIFIERS = {"DenseNet121"}
SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
MB_A_VOXEL = 64 * 4 * 2 / 2**20  # of a window: about 64 features, twice, in float32
LEAST_MB, TIMEOUT_S = 2000, 900
NOT_VALIDATED = (
    "Imported from a MONAI bundle. Not validated here: measure it on your own studies before anyone reads it."
)


@dataclass(frozen=True)
class Said:
    """What a person says about a bundle where it does not say it itself."""

    id: str = ""
    version: str = ""
    title: str = ""
    pathway: str = "imported"
    licence: str = ""
    modality: str = ""
    sop_classes: tuple[str, ...] = ()
    axcodes: str = ""
    spacing_mm: tuple[float, ...] = ()
    codes: Mapping[str, Any] = field(default_factory=dict)  # by channel or class name
    nesting: tuple[int, ...] = ()  # channels of regions that lie within each other, the outermost first
    positive: str = ""  # class that is a finding
    threshold: float | None = None  # its operating point
    left_out: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Understood:
    """A bundle as a declaration, and what is needed to hold it against MONAI's own pipeline."""

    declared: dict[str, Any]
    differences: tuple[str, ...]
    prepared: Prepared
    decided: Decided
    inferer: Component


def understood(bundle: Bundle, said: Said) -> Understood:
    """Return what a bundle declares; PackageRefused or SettingsError names what stands in the way."""
    network = bundle.component("network_def", "network")
    if network.name not in TARGETS:
        allowed = ", ".join(sorted(TARGETS))
        raise refused(network.where, f"{network.name} is not a network that can be imported; those are {allowed}")
    kwargs = dict(network.arguments)
    channels, answers = whole(network, "in_channels"), whole(network, "out_channels")
    dimensions = int(kwargs.get("spatial_dims", 3))
    steps = prepared(bundle.components("preprocessing"), channels, dimensions, said.axcodes, said.spacing_mm)
    classifies = network.name in CLASSIFIERS
    inferer = bundle.component("inferer")
    plan, differences = inference(inferer, steps)
    chain = bundle.components("postprocessing")
    labels = 0 if classifies else (answers - 1 if any_argmax(chain) else answers)
    end = decided(chain, labels)
    bundle.check_left_out()
    order: tuple[int, ...] = ()
    notes: list[str] = []
    if classifies:
        outputs = classes(bundle, said, end, answers)
    else:
        outputs, order, notes = segments(bundle, said, end, answers)
    if order:
        kwargs[ORDER] = list(order)
    declared = {
        **identity(bundle, said),
        "architecture": {"name": TARGETS[network.name], "kwargs": kwargs},
        "inputs": inputs(bundle, said, steps),
        "preprocess": steps.operations(),
        "inference": plan,
        "outputs": outputs,
        "postprocess": [] if classifies else [{"op": "to_source_grid", "method": end.method}, *end.cleaning],
        "precision": {"allowed": ["f32", "f16"]},
        "resources": {"memory_mb": memory_mb(plan), "timeout_s": TIMEOUT_S},
        "report": {"template": "TID1500", "key_slice": "largest_area"},
        "intended_use": text(bundle, "intended_use") or text(bundle, "task") or "not stated by the bundle",
        "limits": NOT_VALIDATED,
        "not_for_clinical_use": True,
    }
    return Understood(declared, (*steps.differences, *differences, *end.differences, *notes), steps, end, inferer)


def whole(component: Component, name: str) -> int:
    """Return an argument of a network that is a whole number from 1."""
    found = component.arguments.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise refused(f"{component.where}::{name}", "is no whole number from 1")
    return found


def any_argmax(chain: Sequence[Component]) -> bool:
    """Return whether one of the steps takes the largest class."""
    return any(step.name == "AsDiscreted" and step.arguments.get("argmax") in (True, [True]) for step in chain)


def memory_mb(plan: Mapping[str, Any]) -> int:
    """Return a first guess of the memory one run needs; what is measured on a host replaces it."""
    voxels: int = math.prod(plan["roi"])
    batch: int = min(plan.get("batch", 1), 2)
    return max(LEAST_MB, round(voxels * MB_A_VOXEL * batch))


def text(bundle: Bundle, key: str) -> str:
    """Return a text of metadata.json on one line, "" where it is absent."""
    found = bundle.metadata.get(key, "")
    return " ".join(str(found).split())[:2000] if isinstance(found, str | int | float) else ""


def identity(bundle: Bundle, said: Said) -> dict[str, Any]:
    """Return who the package is."""
    slug = re.sub(r"[^a-z0-9]+", "-", bundle.folder.resolve().name.lower()).strip("-")
    version = said.version or text(bundle, "version")
    if not SEMVER.fullmatch(version):
        raise SettingsError(f"--version: {METADATA} says {version!r}, which is not like 1.0.0; give one")
    name = text(bundle, "name") or slug.replace("-", " ")
    return {
        "schema_version": 1,
        "id": said.id or slug,
        "version": version,
        "title": said.title or f"{name[:26].strip()}, not clinical",
        "pathway": said.pathway,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": {},
        "licence": said.licence or text(bundle, "license") or "see the bundle's LICENSE",
        "publisher": text(bundle, "authors") or "unknown",
    }


def inputs(bundle: Bundle, said: Said, steps: Prepared) -> list[dict[str, Any]]:
    """Return one series for each channel of the network."""
    image = section(bundle, "inputs", "image")
    modality = said.modality or str(image.get("modality", ""))
    modality = names.SAME_MODALITY.get(modality.upper(), modality.upper())
    sop_classes = list(said.sop_classes) or names.STORAGE.get(modality)
    if not sop_classes:
        raise SettingsError(f"--modality: {METADATA} says {modality!r}; give one of {', '.join(names.STORAGE)}")
    need = {
        "modality": modality,
        "sop_class_uids": sop_classes,
        "min_slices": 8 if steps.dimensions == 3 else 1,
        "exclude_image_types": ["LOCALIZER"],
    }
    if any("one slice only" in one for one in steps.differences):
        need["max_slices"] = 1
    if steps.channels == 1:
        return [{"name": "image", "requirement": need}]
    told = image.get("channel_def") if isinstance(image.get("channel_def"), dict) else {}
    return [channel_input(str((told or {}).get(str(n), "")), n, need) for n in range(steps.channels)]


def channel_input(name: str, number: int, need: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input of one of several channels; its Series Description has to speak for it."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    key = names.SAME_CONTRAST.get(name.lower(), name.lower())
    if key not in names.CONTRASTS:
        raise SettingsError(
            f"{METADATA}: channel {number} of the image is {name!r}, and nothing tells which series that is; "
            f"channel_def may say {', '.join(names.CONTRASTS)}"
        )
    least, patterns = names.CONTRASTS[key]
    prefer = [{"keyword": "SeriesDescription", "pattern": one, "score": score} for one, score in patterns]
    return {"name": plain, "requirement": {**need, "prefer": prefer, "min_score": float(least)}}


def section(bundle: Bundle, kind: str, name: str) -> dict[str, Any]:
    """Return network_data_format.`kind`.`name` of metadata.json."""
    found: Any = bundle.metadata
    for key in ("network_data_format", kind, name):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise refused(f"network_data_format::{kind}::{name}", "is not there", METADATA)
    return found


def channel_names(bundle: Bundle, count: int) -> list[str]:
    """Return what each channel of the answer is called."""
    told = section(bundle, "outputs", "pred").get("channel_def")
    where = "network_data_format::outputs::pred::channel_def"
    if not isinstance(told, dict) or sorted(told) != sorted(str(n) for n in range(count)):
        raise refused(where, f"does not name the {count} channels of the network's answer", METADATA)
    return [" ".join(str(told[str(n)]).split())[:64] for n in range(count)]


def classes(bundle: Bundle, said: Said, end: Decided, count: int) -> dict[str, Any]:
    """Return the outputs of a classifier."""
    if end.activation != "softmax" or end.cleaning:
        raise refused("postprocessing", "a classifier is imported with a softmax (or argmax) and nothing else")
    called = channel_names(bundle, count)
    coded = [{"name": one, "code": told_code(said, one)} for one in called]
    positive = said.positive or (called[1] if count == 2 else "")
    if positive not in called:
        raise SettingsError(f"--positive: name the class that is a finding, one of {', '.join(called)}")
    return {
        "kind": "classification",
        "classes": coded,
        "positive": called.index(positive),
        "threshold": 0.5 if said.threshold is None else said.threshold,
    }


def told_code(said: Said, name: str) -> Any:
    """Return the code a person gave for a class."""
    if name not in said.codes:
        raise SettingsError(f'--codes: no code is known for {name!r}; a JSON file {{"{name}": {{"value": "…", '
                            f'"meaning": "…"}}, …}} gives it')  # fmt: skip
    return said.codes[name]


def segments(bundle: Bundle, said: Said, end: Decided, count: int) -> tuple[dict[str, Any], tuple[int, ...], list[str]]:
    """Return the outputs of a segmentation, the order its channels have to come in, and what that changes."""
    called = channel_names(bundle, count)
    outputs: dict[str, Any] = {"kind": "segmentation", "activation": end.activation}
    if end.activation == "softmax":
        if "background" not in called[0].lower():
            raise refused("network_data_format::outputs::pred::channel_def::0",
                          f"is {called[0]!r}; a package takes channel 0 for background", METADATA)  # fmt: skip
        entries = [segment(said, name, n, covered=False) for n, name in enumerate(called[1:], start=1)]
        return outputs | {"segments": entries}, (), []
    order = nested(said, called)
    last = len(order)
    entries = [segment(said, called[one], n, covered=n < last) for n, one in enumerate(order, start=1)]
    outputs |= {"segments": entries, "threshold": end.threshold}
    note = "regions of the bundle may overlap; in a package's label map the innermost covers the others: " + ", ".join(
        f"segment {n} is {one['name']!r} (channel {at} of the bundle, {called[at]!r})"
        for n, (at, one) in enumerate(zip(order, entries, strict=True), start=1)
    )
    return outputs, (() if order == tuple(range(last)) else order), [note] if last > 1 else []


def nested(said: Said, called: Sequence[str]) -> tuple[int, ...]:
    """Return the channels of regions that lie within each other, the outermost first."""
    if said.nesting:
        if sorted(said.nesting) != list(range(len(called))):
            raise SettingsError(f"--nesting: name each of the channels 0 … {len(called) - 1} once, the outermost first")
        return said.nesting
    depths = [known.depth if (known := names.looked_up(one)) else None for one in called]
    if len(called) > 1 and (None in depths or len(set(depths)) < len(depths)):
        raise SettingsError(
            f"--nesting: {', '.join(called)} may overlap; say which lies within which, the outermost first, e.g. 1,0,2"
        )
    return tuple(sorted(range(len(called)), key=lambda n: depths[n] or 0))


def segment(said: Said, name: str, number: int, *, covered: bool) -> dict[str, Any]:
    """Return one segment, coded by the table or by a person."""
    if name in said.codes:
        told = said.codes[name]
        if not isinstance(told, Mapping) or not {"category", "type"} <= told.keys():
            raise SettingsError(f"--codes: {name!r} needs category and type, each with value and meaning")
        shell = f"{name[:40]} without what is inside" if covered else name
        return {"number": number, "name": shell, "rgb": names.colour(number), **told}
    known = names.looked_up(name)
    if known is None:
        raise SettingsError(f'--codes: no code is known for {name!r}; a JSON file {{"{name}": {{"category": {{"value": '
                            f'"…", "meaning": "…"}}, "type": {{…}}}}, …}} gives it')  # fmt: skip
    return names.entry(known, number, name, covered=covered)

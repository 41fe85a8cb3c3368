"""`curie federation dry-run`: an update made as in a round, but of one step, and shown instead of sent."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

from appliance.catalogue import open_catalogue
from appliance.settings import Settings
from models.federation import from_bytes
from models.package import Package
from models.registry import open_registry
from workers.asking import ask_bytes, read_ask
from workers.sidecar import guard
from workers.sidecar.policy import reason_to_abstain
from workers.sidecar.taking_part import Site
from workers.sidecar.training_run import answered


def rehearse(settings: Settings, package: str) -> dict[str, Any]:
    """Return what the policy says, and every tensor with its bytes that an update would hold. Raises CurieError."""
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        found = open_registry(settings, catalogue).package(package)
        request = question(found)
        base, ask = read_ask(request)
        abstains = reason_to_abstain(Site("dry-run", settings, catalogue).situation(ask))
    finally:
        catalogue.close()
    with tempfile.TemporaryDirectory(prefix="curie-") as folder:
        Path(folder, "request.bin").write_bytes(request)
        Path(folder, "site").write_text("dry-run")
        content, _ = answered(Path(folder), settings)
    guard.passed(content, ask, base, "dry-run")
    return {"abstains": abstains, "bytes": len(content), **header_of(content)}


def question(package: Package) -> bytes:
    """Return a question of one step about a package as it is installed."""
    about = {
        "cycle": "dry-run", "round": 1, "package": package.id, "version": package.version,
        "package_digest": package.digest, "steps": 1, "batch": 1, "learning_rate": 1e-3, "proximal": 0.0,
        "clip_norm": 5.0, "seed": 1,
    }  # fmt: skip
    return ask_bytes(from_bytes(package.path("weights.safetensors").read_bytes()), about)[0]


def header_of(content: bytes) -> dict[str, Any]:
    """Return tensors and metadata of safetensors bytes, as they stand in the header."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    beside = header.pop("__metadata__", {})
    return {"tensors": [_described(name, one) for name, one in sorted(header.items())], "beside": beside}


def _described(name: str, one: dict[str, Any]) -> dict[str, Any]:
    begins, ends = one["data_offsets"]
    return {"name": name, "shape": one["shape"], "type": one["dtype"], "bytes": ends - begins}

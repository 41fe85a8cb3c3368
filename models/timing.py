"""How fast each rung runs a package here, and how near it comes to the golden cases."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from appliance.errors import EngineUnavailable
from models.engines import Engine, Place, candidates, judged
from models.package import Package
from models.parity import as_record, golden_cases

WARM_UP = 2


def timings(package: Package, backends: Sequence[str], place: Place, runs: int = 10) -> list[dict[str, Any]]:
    """Return for each engine of each rung: ms of one window (median of `runs`), parity, or why it does not run."""
    found: list[dict[str, Any]] = []
    for rung in backends:
        try:
            for engine in candidates(package, rung, place):
                found.append(_timed(engine, package, rung, runs))
                engine.close()
        except EngineUnavailable as reason:
            found.append({"rung": rung, "precision": "", "window_ms": None, "reason": str(reason), "parity": []})
    return found


def _timed(engine: Engine, package: Package, rung: str, runs: int) -> dict[str, Any]:
    agreed, reason = judged(engine, package)
    window = torch.from_numpy(golden_cases(package)[0].image)[None].to(engine.device)
    spent = []
    for _ in range(WARM_UP + runs):
        began = time.perf_counter()
        engine.run(window)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        spent.append(time.perf_counter() - began)
    return {
        "rung": rung,
        "precision": engine.precision,
        "window_ms": round(sorted(spent[WARM_UP:])[runs // 2] * 1000, 2),
        "reason": reason,
        "parity": as_record(agreed),
    }

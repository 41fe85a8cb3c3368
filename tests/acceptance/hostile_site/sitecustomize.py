"""A hostile hospital: its owner put this on its path, and every question is answered with the next kind of attack.

Loaded by Python itself at start. ATTACKS names a file of kinds, one a line; each answer takes the first away.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


def attack(site: Any, request: bytes, honest: bytes, kind: str) -> bytes:
    """Return the bytes of one kind of attack."""
    import numpy as np

    from models.federation import Update, decode, encode
    from workers.asking import read_ask

    base, ask = read_ask(request)
    kept = site.places.root / "first-answer"
    if not kept.exists():
        kept.write_bytes(honest)
    update = decode(honest, ask.question(site.name), base)
    first = sorted(update.deltas)[0]
    changed = {
        "nan": {first: np.full_like(update.deltas[first], np.nan)},
        "shape": {first: np.zeros((3, 7), np.float32)},
        "hundredfold": {name: one * 100 for name, one in update.deltas.items()},
    }
    if kind in changed:
        return encode(Update(update.question, {**update.deltas, **changed[kind]}, update.cases))
    others = {"replayed": kept.read_bytes(), "pickled": pickle.dumps(base), "oversized": honest + bytes(300_000)}
    return others[kind]


def take_over() -> None:
    """Replace what this site answers."""
    from workers.sidecar.taking_part import Site

    honest = Site.answer
    kinds = Path(os.environ["ATTACKS"])

    def answer(self: Any, request: bytes, give_up: Any) -> bytes:
        content = honest(self, request, give_up)
        kind, *rest = kinds.read_text().split() or [""]
        kinds.write_text("\n".join(rest))
        return attack(self, request, content, kind) if kind else content

    Site.answer = answer  # type: ignore[method-assign]


if "ATTACKS" in os.environ:
    take_over()

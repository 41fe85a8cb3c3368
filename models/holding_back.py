"""Which patients of a site judge and are never trained on. It must never import torch: who keeps cases asks it too."""

from __future__ import annotations

import hashlib

HELD_BACK = 0.2  # share of patients


def is_held_back(patient: str, salt: str, share: float = HELD_BACK) -> bool:
    """Tell whether a patient judges and is never trained on: the same answer for ever, by a hash."""
    drawn = int.from_bytes(hashlib.sha256(f"{salt}|{patient}".encode()).digest()[:8], "big")
    return drawn / 2**64 < share

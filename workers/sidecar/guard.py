"""The last look before anything leaves this site: an update of the declared tensors, a sentence, and nothing else.

It must never pass bytes that it did not read as what they claim to be.
"""

from __future__ import annotations

from appliance.errors import RoundRefused
from models.federation import SLACK, Update, Weights, decode
from workers.asking import Ask, reason_of

METRICS = frozenset({"loss", "dice_before", "dice_after", "epsilon"})  # that may leave


def passed(content: bytes, ask: Ask, base: Weights, site: str) -> Update | None:
    """Return the update that the bytes are, None for an abstention. Raises RoundRefused for anything else."""
    if reason_of(content) is not None:
        return None
    update = decode(content, ask.question(site), base)
    if update.norm > ask.clip_norm * SLACK:
        raise RoundRefused(f"the update's norm is {update.norm:.3g}, {ask.clip_norm:g} is allowed")
    if unknown := sorted(set(update.metrics) - METRICS):
        raise RoundRefused(f"the metric {unknown[0]!r} may not leave")
    return update

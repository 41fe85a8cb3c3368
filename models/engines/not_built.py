"""What stands where an engine of one precision could not be made. It must never answer a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from appliance.errors import EngineUnavailable


class NotBuilt:
    """An engine in name, so that the ladder hears why there is none and asks for the next."""

    device = torch.device("cpu")

    def __init__(self, rung: str, precision: str, reason: EngineUnavailable) -> None:
        self.name, self.precision = rung, precision
        self._reason = reason

    def run(self, batch: Tensor) -> Tensor:  # noqa: ARG002
        """Raise why there is no engine."""
        raise self._reason

    def close(self) -> None:
        """Nothing is held."""

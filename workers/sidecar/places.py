"""Where the sidecar keeps its things: all of it under data_dir/sidecar."""

from __future__ import annotations

from pathlib import Path

from workers.sidecar.ledger import Ledger


class Places:
    """The folders and files of one site."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "sidecar"
        self.engine = self.root / "engine"  # the engine's workspace
        self.work = self.root / "work"  # of the round that runs
        self.arrived = self.root / "arrived"  # packages that the coordinator sent, not yet looked at
        self.kept = self.root / "kept"  # by package: what an encoding left behind, layers of the site's own
        self.paused = self.root / "paused"
        self.ledger = Ledger(self.root / "ledger.jsonl")

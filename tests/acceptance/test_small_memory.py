"""Two packages on a budget that holds neither: a real worker process lets them take turns, and both finish."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.phantoms import series
from tests.workers.test_life import engine, line, newer, shadow, versions_run
from tests.workers.test_line import HEAD, SETTINGS, Line

__all__ = ["engine", "line", "newer"]
pytestmark = pytest.mark.acceptance


def test_two_packages_on_too_small_a_budget_both_finish(line: Line, newer: str, tmp_path: Path) -> None:
    shadow(line, newer)
    line.receive(series(HEAD))
    file, log = tmp_path / "curie.toml", tmp_path / "worker.log"
    tight = SETTINGS.replace("[worker]", "[worker]\nmemory_gb = 0.001")
    file.write_text(f'{tight}\n[catalogue]\nurl = "{line.catalogue.url}"\n')
    command = [sys.executable, "-m", "appliance.cli.main", "run", "worker", "--config", str(file)]
    with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as worker:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and {state for _, state, _ in versions_run(line)} & {"queued", "running"}:
            time.sleep(0.2)
        worker.kill()
    shipped = line.worker.registry.row("brain-structures").version
    assert versions_run(line) == [(shipped, "delivering", 0), ("9.0.0", "completed", 1)], log.read_text()

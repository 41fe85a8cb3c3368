"""Shared fixtures: a catalogue of its own for each test, a free port, the folder of shared test data."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.catalogue import Catalogue, open_catalogue

ROOT = Path(__file__).parent.parent


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    """A fresh SQLite catalogue."""
    opened = open_catalogue(f"sqlite:///{tmp_path}/curie.db", tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("CURIE_SHARED", "../shared"))
    folder = folder if folder.is_absolute() else ROOT / folder
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared test data at {folder} (CURIE_SHARED)")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of skips last."""
    terminalreporter.write_line(f"{len(terminalreporter.stats.get('skipped', []))} skipped")

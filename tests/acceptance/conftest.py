"""One Orthanc and one appliance for the acceptance tests that may share them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.house import Appliance, Orthanc, absent, free_port
from tests.postgresql import programs

ROOT = Path(__file__).parents[2]
TOOLS = ("Orthanc", "dcmsend", "dciodvfy", "dcentvfy", "strace", "ip")


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    """Fail, rather than skip, when a tool of the acceptance is absent."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    absent += [] if programs() else ["postgresql"]
    assert not absent, f"not installed: {', '.join(absent)}; `make acceptance` installs them"


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that unpacks a shared data set once and gives its folder."""
    folder = Path(os.environ.get("CURIE_SHARED", "../shared"))
    folder = folder if folder.is_absolute() else ROOT / folder
    target = tmp_path_factory.mktemp("shared")

    def unpack(name: str) -> Path:
        if not (folder / "data").is_dir():
            absent(f"no shared test data at {folder} (CURIE_SHARED)")
        subprocess.run([str(folder / "data" / "unpack"), str(target), name], check=True, stdout=subprocess.DEVNULL)
        return target / name

    return unpack


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Appliance, Orthanc]]:
    """A running appliance and a running Orthanc that know each other."""
    folder = tmp_path_factory.mktemp("house")
    orthanc = Orthanc(folder / "orthanc", free_port())
    appliance = Appliance(folder / "curie", orthanc.port, port=orthanc.curie_port)
    orthanc.start()
    try:
        appliance.start()
        yield appliance, orthanc
        assert appliance.stop() == 0
    finally:
        if appliance.process and appliance.process.poll() is None:
            appliance.process.kill()
        orthanc.stop()

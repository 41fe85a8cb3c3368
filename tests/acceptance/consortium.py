"""A coordinator and hospitals as real processes on loopback, with a package so small that a round takes seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from appliance.catalogue import open_catalogue
from appliance.catalogue.connection import now
from appliance.settings import Settings, load
from appliance.volume import Volume
from models.networks import build
from models.packaging import write_package
from models.registry import Registry
from models.zoo.hippocampus_package import declaration
from tests.acceptance.counting import CountingDoor
from tests.acceptance.house import CURIE, free_port
from workers.kept_cases import Told, keep

ARCHITECTURE = ("thin-unet", {"inputs": 1, "classes": 3, "channels": [4, 8], "down": [1, 1], "up": [1]})
ROI = (16, 16, 16)
CENTRAL = """
[appliance]
name = "coordinator"
uid = "2.25.1934"
data_dir = "data"
[models]
allow_unsigned = true
[coordinator]
port = {port}
schedule = ""
packages = ["tiny"]
min_sites = {min_sites}
rounds = {rounds}
round_timeout_s = 90
straggler_s = {straggler_s}
gather_s = 20
steps = {steps}
"""
HOSPITAL = """
[appliance]
name = "{name}"
uid = "2.25.1914{number}"
data_dir = "data"
[models]
allow_unsigned = true
[federation]
coordinator = "grpcs://localhost:{port}"
kit = "kit"
hours = "00:00-00:00"
min_new_cases = {min_new_cases}
packages = ["tiny"]
{more}
"""


def write_tiny(folder: Path) -> Path:
    """Write the package `tiny`: an untrained network of a few thousand weights."""
    torch.manual_seed(1914)
    declared = declaration("0.1.0", ARCHITECTURE, ROI) | {"id": "tiny", "title": "Tiny"}
    del declared["locator"]
    image = np.random.default_rng(1).random((1, *ROI), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        write_package(build(*ARCHITECTURE).eval(), declared, [image], "# tiny\n", folder)
    return folder


def keep_cases(settings: Settings, count: int, seed: int) -> None:
    """Keep made-up cases of `tiny`: a bright block is label 1, its upper half label 2."""
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    declared = Registry(settings, catalogue).load(Registry(settings, catalogue).versions("tiny")[0]).manifest
    random = np.random.default_rng(seed)
    for number in range(count):
        voxels = random.normal(100, 10, (20, 20, 20)).astype(np.float32)
        labels = np.zeros(voxels.shape, np.uint8)
        k, j, i = random.integers(3, 8, 3)
        labels[k : k + 8, j : j + 8, i : i + 8] = 1
        labels[k + 4 : k + 8, j : j + 8, i : i + 8] = 2
        voxels[labels > 0] += 100
        name = f"{seed}-{number}"
        told = Told("import", name, "", now(), "", name, name, "Phantom Works")
        keep(settings, catalogue, declared, Volume(voxels, np.eye(4)[[2, 1, 0, 3]], (), name, ""), labels, ("",), told)
    catalogue.close()


class Party:
    """One process with a folder and settings of its own."""

    def __init__(self, folder: Path, settings: str, process: str) -> None:
        self.folder, self.name = folder, process
        self.file = folder / "curie.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(settings)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The data_dir."""
        return self.folder / "data"

    def install(self, package: Path) -> None:
        """Install a package, without its gate."""
        settings = load(self.file)
        catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
        Registry(settings, catalogue).install(package, lambda _: None)
        catalogue.close()

    def start(self, command: Sequence[str] = (), **environment: str) -> None:
        """Start the process; `command` replaces the usual one."""
        given = [*(command or (*CURIE, "run", self.name)), "--config", str(self.file)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                given, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
            )

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """SIGTERM, then kill -9."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.kill()

    def children(self) -> list[psutil.Process]:
        """Return all processes below."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command here."""
        return subprocess.run([*CURIE, *words, "--config", str(self.file)], capture_output=True, text=True, timeout=120)

    def text(self) -> str:
        """Return the log."""
        return (self.folder / "log").read_text(errors="replace")


class Consortium:
    """One coordinator, several hospitals."""

    def __init__(
        self, folder: Path, sites: int, *, min_sites: int = 2, rounds: int = 2, steps: int = 4, straggler_s: float = 8,
        min_new_cases: int = 1, more: str = "",
    ) -> None:  # fmt: skip
        self.port = free_port()
        self.door = CountingDoor(self.port)
        said = {"port": self.port, "min_sites": min_sites, "rounds": rounds, "steps": steps, "straggler_s": straggler_s}
        self.central = Party(folder / "central", CENTRAL.format(**said), "coordinator")
        self.sites = [
            self._site(folder, number, {"min_new_cases": min_new_cases, "more": more}) for number in range(1, sites + 1)
        ]
        package = write_tiny(folder / "tiny")
        for party in (self.central, *self.sites):
            party.install(package)
        for number, site in enumerate(self.sites, start=1):
            keep_cases(load(site.file), 5 + number, number)
            self.invite(site)

    def _site(self, folder: Path, number: int, said: dict[str, Any]) -> Party:
        text = HOSPITAL.format(name=f"site-{number}", number=number, port=self.port, **said)
        return Party(folder / f"site-{number}", text, "sidecar")

    def invite(self, site: Party) -> None:
        """Make a kit at the coordinator, join with it at the site."""
        made = self.central.run("federation", "invite", site.folder.name, "--out", str(site.folder))
        assert made.returncode == 0, made.stderr
        joined = site.run("federation", "join", str(site.folder / f"{site.folder.name}-kit.zip"), "--yes")
        assert joined.returncode == 0, joined.stderr

    def count_bytes_of(self, site: Party) -> None:
        """Let a site call the coordinator through the door that counts."""
        text = site.file.read_text()
        site.file.write_text(text.replace(f"localhost:{self.port}", f"localhost:{self.door.port}"))

    def start(self) -> None:
        """Start all."""
        for party in (self.central, *self.sites):
            party.start()

    def stop(self) -> None:
        """Stop all."""
        for party in (*self.sites, self.central):
            party.stop()

    def coordinate(self) -> None:
        """Ask for a cycle, as soon as the coordinator is there."""

        def asked() -> bool:
            return self.central.run("federation", "coordinate").returncode == 0

        wait("the coordinator", asked, 40)

    def cycles(self) -> list[dict[str, Any]]:
        """Return the lineage."""
        told: list[dict[str, Any]] = json.loads(self.central.run("federation", "rounds", "--json").stdout)
        return told

    def ended(self, number: int, seconds: float) -> dict[str, Any]:
        """Wait until cycle `number` (from 1) has ended, and return it."""

        def found() -> dict[str, Any] | None:
            cycles = self.cycles()
            return cycles[number - 1] if len(cycles) >= number and cycles[number - 1]["state"] != "running" else None

        answer: dict[str, Any] = wait(f"cycle {number}", found, seconds)
        return answer


def wait(what: str, found: Callable[[], Any], seconds: float, every_s: float = 0.3) -> Any:
    """Return the first true answer of `found`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")

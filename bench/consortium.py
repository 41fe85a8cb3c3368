"""A coordinator and hospitals as real processes on loopback, of any package: for acceptance, benchmark and demo.

Each has a folder, settings and a data_dir of its own, and they meet over mTLS alone. Started and ended by process id.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from appliance.catalogue import open_catalogue
from appliance.settings import load
from bench.counting import CountingDoor
from bench.receivers import free_port
from models.registry import Registry

CURIE = [sys.executable, "-m", "appliance.cli.main"]
Values = Mapping[str, Any]  # of settings: true, numbers, strings and lists of them
UNSIGNED: Values = {"allow_unsigned": True}
PUBLISHER = "kit/publisher.pub"  # the coordinator's key, which comes with the kit


def settings_text(tables: Mapping[str, Values]) -> str:
    """Return tables of settings as TOML."""
    lines = []
    for name, values in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def uid_of(name: str) -> str:
    """Return the UID of a hospital's appliance."""
    return f"2.25.{1914 + sum(name.encode())}"


def hospital_settings(name: str, port: int, package: str, federation: Values, models: Values = UNSIGNED) -> str:
    """Return curie.toml of a site that takes part at all hours."""
    own = {"coordinator": f"grpcs://localhost:{port}", "kit": "kit", "hours": "00:00-00:00", "packages": [package]}
    tables = {"name": name, "uid": uid_of(name), "data_dir": "data"}, models, own | dict(federation)
    return settings_text(dict(zip(("appliance", "models", "federation"), tables, strict=True)))


def coordinator_settings(port: int, package: str, coordinator: Values, models: Values = UNSIGNED) -> str:
    """Return curie.toml of the central side, which begins a cycle by command alone."""
    own = {"port": port, "schedule": "", "packages": [package], **coordinator}
    tables = {"name": "coordinator", "uid": "2.25.1934", "data_dir": "data"}, models, own
    return settings_text(dict(zip(("appliance", "models", "coordinator"), tables, strict=True)))


def radiology_settings(route: str, package: str, modality: str) -> str:
    """Return what a whole appliance adds: a receiver, a route to a package and a PACS, on free ports."""
    return settings_text(
        {
            "receiver": {"host": "127.0.0.1", "port": free_port(), "unknown_sources": "accept"},
            "spool": {"reserve_gb": 0.2},
            "completeness": {"after_release_s": 1, "quiet_s": 2},
            "[destinations]": {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": free_port()},
            "[routes]": {"name": route, "package": package, "destinations": ["pacs"]},
            "routes.match": {"Modality": modality},
        }
    )


class Party:
    """One process with a folder and settings of its own."""

    def __init__(self, folder: Path, settings: str, *words: str) -> None:
        """`words`: the command that it runs, as ("run", "sidecar")."""
        self.folder, self.words = folder, words
        self.file = folder / "curie.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(settings)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """What a site is called in its certificate."""
        return self.folder.name

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

    def start(self, **environment: str) -> None:
        """Start the process."""
        given = [*CURIE, *self.words, "--config", str(self.file)]
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

    def trainer(self) -> psutil.Process | None:
        """Return the process that trains below a site, None where there is none."""
        for one in self.children():
            with suppress(psutil.Error):  # it may end meanwhile
                if "workers.sidecar.training_run" in one.cmdline():
                    return one
        return None

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command here."""
        return subprocess.run([*CURIE, *words, "--config", str(self.file)], capture_output=True, text=True, timeout=120)

    def text(self) -> str:
        """Return the log."""
        return (self.folder / "log").read_text(errors="replace")


class Consortium:
    """One coordinator, several hospitals, of one package."""

    def __init__(
        self, folder: Path, package: str, names: Sequence[str], *, coordinator: Values, federation: Values,
        trusted: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """`trusted`: keys of packages, beside the coordinator's own at the sites; none: unsigned ones are taken."""
        central, site = ({"trusted_keys": [*trusted, *more]} if trusted else UNSIGNED for more in ((), (PUBLISHER,)))
        self.port = free_port()
        self.door = CountingDoor(self.port)
        self.central = Party(
            folder / "central", coordinator_settings(self.port, package, coordinator, central), "run", "coordinator"
        )
        self.sites = [
            Party(folder / name, hospital_settings(name, self.port, package, federation, site), "run", "sidecar")
            for name in names
        ]

    def invite_all(self) -> None:
        """Make a kit for each site at the coordinator, and join with it at the site."""
        for site in self.sites:
            self.invite(site)

    def invite(self, site: Party) -> None:
        """Make a kit for a site at the coordinator, and join with it; again: new certificates."""
        made = self.central.run("federation", "invite", site.name, "--out", str(site.folder))
        assert made.returncode == 0, made.stderr
        joined = site.run("federation", "join", str(site.folder / f"{site.name}-kit.zip"), "--yes")
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

        wait_for("the coordinator", asked, 40)

    def cycles(self) -> list[dict[str, Any]]:
        """Return the lineage."""
        told: list[dict[str, Any]] = json.loads(self.central.run("federation", "rounds", "--json").stdout)
        return told

    def ended(self, number: int, seconds: float) -> dict[str, Any]:
        """Wait until cycle `number` (from 1) has ended, and return it."""

        def found() -> dict[str, Any] | None:
            cycles = self.cycles()
            return cycles[number - 1] if len(cycles) >= number and cycles[number - 1]["state"] != "running" else None

        answer: dict[str, Any] = wait_for(f"cycle {number}", found, seconds)
        return answer


def wait_for(what: str, found: Callable[[], Any], seconds: float, every_s: float = 0.7) -> Any:
    """Return the first true answer of `found`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")

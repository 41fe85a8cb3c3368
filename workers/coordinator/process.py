"""`curie run coordinator`: keeps the engine's server running, begins cycles, and goes on with one after a crash.

What a cycle is stands in its lineage on disk; a job of the engine is only the way there and is started again when it
is lost. It must never hold state that a kill would take along.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
from collections import Counter
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from appliance.catalogue import Catalogue
from appliance.errors import CurieError, Missing, SettingsError
from appliance.federation_settings import Coordinator
from appliance.log import logger
from appliance.process import keep_stepping, running
from appliance.schedule import parse
from appliance.settings import Settings
from appliance.supervisor import Child, Supervisor
from models.federation import from_bytes
from models.package import Package
from models.registry import Registry
from workers.coordinator import kits, triggers
from workers.coordinator.lineage import CycleRecord, Lineage, name_of, packages_with_lineage
from workers.coordinator.server_files import ACCOUNT, folder_of, write_account, write_server
from workers.engine_policy import CONTROLLER, ENVIRONMENT, EXECUTOR, ORGANISATION

POLL_S = 0.5
MOST_LOST = 8  # jobs of one cycle that end early before it is given up
CONNECT_S = 5.0
OFTEN_S, SELDOM_S = 0.2, 2.0  # between two questions of a site whether there is work
QUESTIONS = 14400  # of a site in one round at most, where that leaves the limits: each is 1.3 kB
ENDED = ("FINISHED", "FAILED", "ABANDONED", "ABNORMAL")


def run(settings: Settings) -> None:
    """Run until told to stop."""
    if settings.coordinator is None:
        raise SettingsError("there is no [coordinator] in the settings; only the central side runs one")
    os.environ.update(ENVIRONMENT)  # for the engine's processes
    with running("coordinator", settings) as process:
        coordination = Coordination(settings, settings.coordinator, process.catalogue)
        coordination.start()
        try:
            keep_stepping(coordination.step, process.stop, POLL_S)
        finally:
            coordination.stop()


class Coordination:
    """The central side of one appliance."""

    def __init__(self, settings: Settings, own: Coordinator, catalogue: Catalogue) -> None:
        self.settings, self.own = settings, own
        self.registry = Registry(settings, catalogue)
        self.schedule = parse(own.schedule) if own.schedule else None
        self.next_at = self._next()
        self.supervisor = Supervisor([])
        self.session: Session | None = None
        self.jobs: dict[str, tuple[str, float]] = {}  # cycle → its job, and when that was last seen running
        self.seen_at: dict[str, float] = {}  # cycle → when this process first had a job to start for it
        self.lost: Counter[str] = Counter()  # cycle → jobs that ended without a round since the last that held one
        self.held: Counter[str] = Counter()  # cycle → rounds that were held when its job began

    def start(self) -> None:
        """Start the engine's server."""
        place = write_server(self.settings.data_dir, self.own)
        write_account(self.settings.data_dir, self.own)
        triggers.folder(self.settings.data_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
        module = "nvflare.private.fed.app.server.server_train"
        given = ["secure_train=true", f"org={ORGANISATION}", "config_folder=config"]
        command = [sys.executable, "-m", module, "-m", str(place), "-s", "fed_server.json", "--set", *given]
        self.supervisor = Supervisor([Child("coordinator-server", command)])
        self.supervisor.start()
        self.registry.adopt_shipped()  # while the server starts

    def stop(self) -> None:
        """End the engine's server."""
        self._forget_session()
        self.supervisor.stop()

    def step(self) -> None:
        """Keep the server running; begin what is due; see that every cycle that runs has a job."""
        self.supervisor.step()
        for package in self._due():
            self._begin(package)
        for package in packages_with_lineage(self.settings.data_dir):
            cycle = Lineage(self.settings.data_dir, package).unfinished()
            if cycle is not None:
                self._see_to(cycle)

    def _next(self) -> datetime | None:
        return self.schedule.after(datetime.now()) if self.schedule else None

    def _due(self) -> list[str]:
        """Return the packages of which a cycle is to begin now."""
        asked = triggers.asked(self.settings.data_dir)
        if self.next_at is not None and datetime.now() >= self.next_at:
            self.next_at = self._next()
            asked += [one for one in self.own.packages if one not in asked]
        return asked

    def _begin(self, package: str) -> None:
        """Write a new cycle of a package, unless one is running."""
        lineage = Lineage(self.settings.data_dir, package)
        try:
            if lineage.unfinished() is None:
                cycle, weights = begun(self._parent(package), lineage, self.settings)
                lineage.begin(cycle, weights)
                logger().info("cycle_begun", package=package, cycle=cycle.id)
        except CurieError as error:
            logger().error("cycle_not_begun", package=package, cause=str(error))
        triggers.answered(package, self.settings.data_dir)

    def _parent(self, package: str) -> Package:
        """Return the version that is trained further: the active one, else the newest that is not retired."""
        rows = [one for one in self.registry.versions(package) if one.state != "retired"]
        if not rows:
            raise Missing(f"no package {package} is installed at the coordinator")
        return self.registry.load(next((one for one in rows if one.state == "active"), rows[-1]))

    # --- jobs of the engine ---

    def _see_to(self, cycle: CycleRecord) -> None:
        """Start a job for a cycle, unless one runs."""
        try:
            if not self._has_job(cycle) and self.lost[cycle.id] < MOST_LOST:
                self._submit(cycle)
        except Exception as error:  # noqa: BLE001 - the engine's own errors have no common ground
            logger().warning("engine_not_ready", cause=type(error).__name__)
            self._forget_session()

    def _has_job(self, cycle: CycleRecord) -> bool:
        job, seen_at = self.jobs.get(cycle.id, ("", 0.0))
        if not job:
            return False
        if time.monotonic() - seen_at < 2.0:
            return True
        status = str(self._connected().get_job_status(job))
        if not any(word in status.upper() for word in ENDED):
            self.jobs[cycle.id] = (job, time.monotonic())
            return True
        del self.jobs[cycle.id]
        lineage = Lineage(self.settings.data_dir, cycle.package)
        if len(lineage.rounds(cycle.id)) > self.held[cycle.id]:
            self.lost[cycle.id] = 0
        else:
            logger().warning("job_ended_early", cycle=cycle.id, status=status)
            self._lost_one(cycle, lineage)
        return False

    def _lost_one(self, cycle: CycleRecord, lineage: Lineage) -> None:
        """Give a cycle up whose jobs end without a round again and again."""
        self.lost[cycle.id] += 1
        if self.lost[cycle.id] >= MOST_LOST and lineage.cycle(cycle.id).state == "running":
            lineage.change(
                cycle, state="refused", why=f"{MOST_LOST} jobs of the engine ended early; look at its log.txt"
            )

    def _submit(self, cycle: CycleRecord) -> None:
        """Start a job for the rounds that are still to come, once enough sites are connected."""
        session = self._connected()
        known = set(kits.invited(self.settings.data_dir))
        here = {client.name for client in session.get_connected_client_list()} & known
        waited = time.monotonic() - self.seen_at.setdefault(cycle.id, time.monotonic())
        if len(here) < self.own.min_sites or (known - here and waited < self.own.gather_s):
            return
        folder = write_job(folder_of(self.settings.data_dir) / "job", cycle, self.own)
        job = session.submit_job(str(folder))
        self.jobs[cycle.id] = (job, time.monotonic())
        self.held[cycle.id] = len(Lineage(self.settings.data_dir, cycle.package).rounds(cycle.id))
        logger().info("job_started", cycle=cycle.id, job=job, sites=sorted(here))

    def _connected(self) -> Session:
        if self.session is None:
            place = str(folder_of(self.settings.data_dir) / "account")
            with redirect_stdout(io.StringIO()):  # it talks to a terminal
                self.session = new_secure_session(ACCOUNT, place, timeout=CONNECT_S)
        return self.session

    def _forget_session(self) -> None:
        if self.session is not None:
            try:
                self.session.close()
            except Exception as error:  # noqa: BLE001 - the server may be gone
                logger().info("session_lost", cause=type(error).__name__)
        self.session = None


def begun(package: Package, lineage: Lineage, settings: Settings) -> tuple[CycleRecord, Any]:
    """Return a new cycle of an installed package and the weights it begins from: the last that counted, or its own."""
    assert settings.coordinator is not None
    sites = kits.invited(settings.data_dir)
    if not sites:
        raise Missing("no site was invited yet: `curie federation invite SITE`")
    cycle = CycleRecord(
        id=name_of(datetime.now(UTC)), package=package.id, version=package.version, package_digest=package.digest,
        rounds=settings.coordinator.rounds, started_at=datetime.now(UTC).isoformat(), sites=tuple(sites),
    )  # fmt: skip
    weights = lineage.last_accepted(package.digest)
    return cycle, weights or from_bytes(package.path("weights.safetensors").read_bytes())


def write_job(folder: Path, cycle: CycleRecord, settings: Coordinator) -> Path:
    """Write a job that is configuration alone, and return its folder."""
    shutil.rmtree(folder, ignore_errors=True)
    interval = min(SELDOM_S, max(OFTEN_S, settings.round_timeout_s / QUESTIONS))
    meta = {"name": cycle.id, "min_clients": settings.min_sites, "resource_spec": {}, "deploy_map": {"app": ["@ALL"]}}
    workflow = {"id": "rounds", "path": CONTROLLER, "args": {"package": cycle.package, "cycle": cycle.id}}
    server = {"format_version": 2, "server": {"heart_beat_timeout": 60, "task_request_interval": interval}}
    client = {"format_version": 2, "default_task_fetch_interval": interval}
    files = {
        "meta.json": meta,
        "app/config/config_fed_server.json": server | {"workflows": [workflow]},
        "app/config/config_fed_client.json": client
        | {"executors": [{"tasks": ["train", "take"], "executor": {"path": EXECUTOR, "args": {}}}]},
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(json.dumps(content, indent=1))
    return folder
